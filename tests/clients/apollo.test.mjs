import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import { gql } from "@apollo/client";
import { persisted } from "./apollo-persisted.js";
import { makeApollo } from "./apollo.js";
import { possibleTypes } from "./possible-types.js";
import { openSocket } from "./socket.js";
import {
  REQUEST,
  STATUS,
  ask,
  newcomer,
  pdf,
  requestLecture,
  slowFetch,
  slowLectureUrl,
  until,
  url,
  watchedFetch,
} from "./service.mjs";

function client(t, who, fetch, links) {
  const socket = openSocket({ url, getToken: who.getToken });
  const apollo = makeApollo({ url, getToken: who.getToken, socket, fetch, links });
  t.after(() => Promise.all([apollo.stop(), socket.dispose()]));
  return apollo;
}

const LECTURE = gql`query One($id: ID!) { lecture(id: $id) { id revision status } }`;

test("pages of a list are joined", async (t) => {
  const who = newcomer();
  for (let n = 0; n < 3; n++) await requestLecture(who, slowLectureUrl, randomUUID());
  const apollo = client(t, who);
  const query = gql`query List($after: String) { lectures(first: 2, after: $after) {
    edges { cursor node { id revision status } } pageInfo { hasNextPage endCursor } } }`;
  const list = apollo.watchQuery({ query });
  const watching = list.subscribe(() => {});
  t.after(() => watching.unsubscribe());
  const first = await apollo.query({ query });
  await list.fetchMore({ variables: { after: first.data.lectures.pageInfo.endCursor } });
  const joined = apollo.readQuery({ query });
  assert.equal(joined.lectures.edges.length, 3);
  assert.equal(joined.lectures.pageInfo.hasNextPage, false);
});

test("an expected error arrives whole", async (t) => {
  const apollo = client(t, newcomer());
  const mutation = gql`mutation Retry($id: ID!) { retryLectureDownload(id: $id) { ... on Error { message } } }`;
  const { data } = await apollo.mutate({ mutation, variables: { id: randomUUID() } });
  assert.equal(data.retryLectureDownload.__typename, "NotFoundError");
  assert.ok(data.retryLectureDownload.message);
});

test("every type behind an interface, or a union that is no mutation's result, is named", async () => {
  const query = "{ __schema { types { kind name possibleTypes { name } } } }";
  const { __schema } = await ask(newcomer(), query);
  const isNamed = ({ kind, name }) => kind === "INTERFACE" || (kind === "UNION" && !name.endsWith("Result"));
  const found = __schema.types.filter(isNamed).map(({ name, possibleTypes }) => [name, possibleTypes.map((each) => each.name).sort()]);
  assert.deepEqual(possibleTypes, Object.fromEntries(found));
});

test("a file is uploaded", async (t) => {
  const who = newcomer();
  const apollo = client(t, who);
  const mutation = gql`mutation Upload($input: UploadDocumentInput!) { uploadDocument(input: $input) {
    ... on UploadDocumentPayload { document { id filename } } ... on Error { message } } }`;
  const input = { courseId: who.courseId, file: pdf("Größe ä.pdf") };
  const { data } = await apollo.mutate({ mutation, variables: { input } });
  assert.equal(data.uploadDocument.document.filename, "Größe ä.pdf");
});

test("each list is kept by all of its filters", async (t) => {
  const { fields } = client(t, newcomer()).cache.config.typePolicies.Query;
  const query = `{ __type(name: "Query") { fields { name args { name } type { ofType { name } } } } }`;
  const { __type } = await ask(newcomer(), query);
  const lists = __type.fields.filter(({ type }) => type.ofType?.name?.endsWith("Connection"));
  const filters = lists.map(({ name, args }) => [name, args.map((each) => each.name).filter((arg) => !["first", "after"].includes(arg))]);
  assert.deepEqual(Object.fromEntries(Object.entries(fields).map(([name, { keyArgs }]) => [name, keyArgs])), Object.fromEntries(filters));
});

async function overtaken(apollo, held, id) {
  await until(() => held.count, "the answer is held back");
  await new Promise((done, failed) =>
    apollo.subscribe({ query: gql(STATUS), variables: { id } }).subscribe({ complete: done, error: failed }),
  );
  held.letGo();
}

for (const always of [false, true]) {
  test(`an answer that an event has overtaken ${always ? "again and again " : ""}does not undo it`, async (t) => {
    const who = newcomer();
    const id = await requestLecture(who);
    const held = slowFetch((body) => body.includes("Held"), { always });
    const apollo = client(t, who, held.fetch);
    const query = gql`query Held($id: ID!) { lecture(id: $id) { id revision status durationSeconds } }`;
    const late = apollo.query({ query, variables: { id } });
    await overtaken(apollo, held, id);
    const { lecture } = (await late).data;
    assert.deepEqual([lecture.status, lecture.durationSeconds], ["COMPLETED", always ? null : 20]);
    assert.equal(apollo.readQuery({ query: LECTURE, variables: { id } }).lecture.status, "COMPLETED");
    assert.equal(held.count, 2);
  });
}

test("a mutation that an event has overtaken is not sent again, and undoes nothing", async (t) => {
  const who = newcomer();
  const id = await requestLecture(who);
  const held = slowFetch((body) => body.includes("mutation"));
  const apollo = client(t, who, held.fetch);
  const input = { courseId: who.courseId, panoptoUrl: slowLectureUrl };
  const late = apollo.mutate({ mutation: gql(REQUEST), variables: { input } });
  await overtaken(apollo, held, id);
  assert.equal((await late).data.requestLectureDownload.lecture.status, "COMPLETED");
  assert.equal(apollo.cache.readFragment({ id: `Lecture:${id}`, fragment: gql`fragment Now on Lecture { status }` }).status, "COMPLETED");
  assert.equal(held.count, 1);
});

test("a query is sent whole once, and then by its hash", async (t) => {
  const { whole, fetch } = watchedFetch();
  const apollo = client(t, newcomer(), fetch, [persisted]);
  const query = gql`query Mine${randomUUID().slice(0, 8)} { viewer { id } }`;
  for (let n = 0; n < 2; n++) assert.ok((await apollo.query({ query, fetchPolicy: "network-only" })).data.viewer.id);
  assert.deepEqual(whole, [false, true, false]);
});
