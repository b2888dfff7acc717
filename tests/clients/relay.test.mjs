import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import relay from "relay-runtime";
import { makeRelay } from "./relay.js";
import { openSocket } from "./socket.js";
import { ask, newcomer, requestLecture, slowFetch, slowLectureUrl, until, url } from "./service.mjs";

const SOURCE = `
graphql\`fragment page_lecture on Lecture @refetchable(queryName: "LectureAgain") { id revision status title }\`;
graphql\`fragment page_document on Document @refetchable(queryName: "DocumentAgain") { id filename }\`;
graphql\`fragment page_course on Course @refetchable(queryName: "CourseAgain") { id title }\`;
graphql\`query pageQuery($first: Int = 2, $after: String) {
  lectures(first: $first, after: $after) @connection(key: "page_lectures") {
    edges { node { id revision status ...page_lecture } }
  }
}\`;
graphql\`query pageOneQuery($id: ID!) { lecture(id: $id) { id revision status title durationSeconds } }\`;
graphql\`subscription pageStatusSubscription($id: ID!) { lectureStatus(id: $id) { id revision status } }\`;
graphql\`mutation pageRequestMutation($input: RequestLectureDownloadInput!, $connections: [ID!]!) {
  requestLectureDownload(input: $input) {
    ... on RequestLectureDownloadPayload {
      lecture @prependNode(connections: $connections, edgeTypeName: "LectureEdge") { id revision status }
    }
    ... on Error { message }
  }
}\`;
graphql\`mutation pageUnlinkMutation($id: ID!, $connections: [ID!]!) {
  unlinkLecture(id: $id) {
    ... on UnlinkLecturePayload { lectureId @deleteEdge(connections: $connections) @deleteRecord }
    ... on Error { message }
  }
}\`;
graphql\`mutation pageRetryMutation($id: ID!) {
  retryLectureDownload(id: $id) { __typename ... on NotFoundError { message } }
}\`;
`;
mkdirSync("relay/__generated__", { recursive: true });
writeFileSync("relay/page.js", SOURCE);
const config = { src: "relay", language: "javascript", schema: "schema.graphql", eagerEsModules: true };
writeFileSync("relay.config.json", JSON.stringify(config));
execFileSync("node_modules/.bin/relay-compiler", ["relay.config.json"], { encoding: "utf8" });
const load = async (name) => (await import(`./relay/__generated__/${name}.graphql.js`)).default;

function environmentOf(t, who, fetch) {
  const error = t.mock.method(console, "error");
  const socket = openSocket({ url, getToken: who.getToken });
  t.after(() => {
    assert.deepEqual(error.mock.calls.map(({ arguments: said }) => said), []);
    return socket.dispose();
  });
  return makeRelay({ url, getToken: who.getToken, socket, fetch });
}

const mutate = async (environment, name, variables) => {
  const mutation = await load(name);
  return new Promise((onCompleted, onError) =>
    relay.commitMutation(environment, { mutation, variables, onCompleted, onError }),
  );
};

test("a list grows and shrinks with what is requested and unlinked", async (t) => {
  const who = newcomer();
  await requestLecture(who);
  const environment = environmentOf(t, who);
  const query = await load("pageQuery");
  await relay.fetchQuery(environment, query, {}).toPromise();
  const connection = relay.ConnectionHandler.getConnectionID("client:root", "page_lectures");
  environment.retain(relay.createOperationDescriptor(query, {}));
  const nodes = () =>
    environment.lookup(relay.createOperationDescriptor(query, {}).fragment).data.lectures.edges.map(({ node }) => node.id);
  assert.equal(nodes().length, 1);
  const input = { courseId: randomUUID(), panoptoUrl: slowLectureUrl };
  const added = await mutate(environment, "pageRequestMutation", { input, connections: [connection] });
  const { id } = added.requestLectureDownload.lecture;
  assert.equal(nodes()[0], id);
  await mutate(environment, "pageUnlinkMutation", { id, connections: [connection] });
  assert.equal(nodes().length, 1);
});

async function overtaken(environment, held, id) {
  await until(() => held.count, "the answer is held back");
  const subscription = await load("pageStatusSubscription");
  await new Promise((onCompleted, onError) =>
    relay.requestSubscription(environment, { subscription, variables: { id }, onCompleted, onError }),
  );
  held.letGo();
}

for (const always of [false, true]) {
  test(`an answer that an event has overtaken ${always ? "again and again " : ""}does not undo it`, async (t) => {
    const who = newcomer();
    const id = await requestLecture(who);
    const held = slowFetch((body) => body.includes("pageOneQuery"), { always });
    const environment = environmentOf(t, who, held.fetch);
    const late = relay.fetchQuery(environment, await load("pageOneQuery"), { id }).toPromise();
    await overtaken(environment, held, id);
    const { lecture } = await late;
    assert.deepEqual([lecture.status, lecture.durationSeconds], ["COMPLETED", always ? null : 20]);
    assert.equal(held.count, 2);
  });
}

test("a mutation that an event has overtaken is not sent again, and undoes nothing", async (t) => {
  const who = newcomer();
  const id = await requestLecture(who);
  const held = slowFetch((body) => body.includes("mutation"));
  const environment = environmentOf(t, who, held.fetch);
  const input = { courseId: who.courseId, panoptoUrl: slowLectureUrl };
  const late = mutate(environment, "pageRequestMutation", { input, connections: [] });
  await overtaken(environment, held, id);
  assert.equal((await late).requestLectureDownload.lecture.status, "COMPLETED");
  assert.equal(environment.getStore().getSource().get(id).status, "COMPLETED");
  assert.equal(held.count, 1);
});

test("an error that names a lecture does not take its place", async (t) => {
  const who = newcomer();
  const id = await requestLecture(who);
  const environment = environmentOf(t, who);
  const query = await load("pageOneQuery");
  await relay.fetchQuery(environment, query, { id }).toPromise();
  const { title } = await environment.getStore().getSource().get(id);
  await ask({ user: "admin" }, "mutation ($id: ID!) { deleteLecture(id: $id) { __typename } }", { id });
  const answer = await mutate(environment, "pageRetryMutation", { id });
  assert.equal(answer.retryLectureDownload.__typename, "NotFoundError");
  const record = environment.getStore().getSource().get(id);
  assert.deepEqual([record.__typename, record.title], ["Lecture", title]);
});
