import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import { gql } from "@urql/core";
import { getIntrospectionQuery } from "graphql";
import { openSocket } from "./socket.js";
import { persisted } from "./urql-persisted.js";
import { makeUrql } from "./urql.js";
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

const schema = await ask(newcomer(), getIntrospectionQuery());

function client(t, who, fetch, exchanges) {
  const warn = t.mock.method(console, "warn");
  const socket = openSocket({ url, getToken: who.getToken });
  t.after(() => {
    assert.deepEqual(warn.mock.calls.map(({ arguments: said }) => said[0]), []);
    return socket.dispose();
  });
  return makeUrql({ url, getToken: who.getToken, socket, schema, fetch, exchanges });
}

test("pages of a list are joined", async (t) => {
  const who = newcomer();
  for (let n = 0; n < 3; n++) await requestLecture(who, slowLectureUrl, randomUUID());
  const urql = client(t, who);
  const query = gql`query List($after: String) { lectures(first: 2, after: $after) {
    edges { cursor node { id revision status progress { stage } } } pageInfo { hasNextPage endCursor } } }`;
  const first = await urql.query(query, {}).toPromise();
  assert.equal(first.error, undefined);
  const next = await urql.query(query, { after: first.data.lectures.pageInfo.endCursor }).toPromise();
  assert.equal(next.data.lectures.edges.length, 3);
  assert.equal(next.data.lectures.pageInfo.hasNextPage, false);
});

test("an expected error arrives whole", async (t) => {
  const urql = client(t, newcomer());
  const mutation = gql`mutation Retry($id: ID!) {
    retryLectureDownload(id: $id) { __typename ... on Error { message } } }`;
  const { data } = await urql.mutation(mutation, { id: randomUUID() }).toPromise();
  assert.equal(data.retryLectureDownload.__typename, "NotFoundError");
  assert.ok(data.retryLectureDownload.message);
});

test("a file is uploaded", async (t) => {
  const who = newcomer();
  const urql = client(t, who);
  const mutation = gql`mutation Upload($input: UploadDocumentInput!) { uploadDocument(input: $input) {
    __typename ... on UploadDocumentPayload { document { id filename } } ... on Error { message } } }`;
  const input = { courseId: who.courseId, file: pdf("Größe ä.pdf") };
  const { data, error } = await urql.mutation(mutation, { input }).toPromise();
  assert.equal(error, undefined);
  assert.equal(data.uploadDocument.document.filename, "Größe ä.pdf");
});

test("what has no id is kept without a warning", async (t) => {
  const who = newcomer();
  const urql = client(t, who);
  const upload = gql`mutation Upload($input: UploadDocumentInput!) { uploadDocument(input: $input) {
    ... on UploadDocumentPayload { document { id signedFile { url expiresAt } } } } }`;
  const input = { courseId: who.courseId, file: pdf("a.pdf") };
  const sent = await urql.mutation(upload, { input }).toPromise();
  assert.ok(sent.data.uploadDocument.document.signedFile.url);
  const refuse = gql`mutation Refuse($ids: [ID!]!) { unlinkLectures(ids: $ids) {
    __typename ... on InvalidInputError { fieldErrors { path message code } } } }`;
  const refused = await urql.mutation(refuse, { ids: [] }).toPromise();
  assert.equal(refused.data.unlinkLectures.fieldErrors.length, 1);
  const query = gql`{ limits { maxPageSize } viewer { id lectureCounts { status count } } }`;
  const { data, error } = await urql.query(query, {}).toPromise();
  assert.equal(error, undefined);
  assert.ok(data.limits.maxPageSize);
});

async function overtaken(t, urql, held, id) {
  await until(() => held.count, "the answer is held back");
  const states = [];
  const live = urql.subscription(gql(STATUS), { id }).subscribe(({ data }) => states.push(data?.lectureStatus.status));
  t.after(() => live.unsubscribe());
  await until(() => states.at(-1) === "COMPLETED", "the lecture is there");
  held.letGo();
}

const LECTURE = gql`query One($id: ID!) { lecture(id: $id) { id revision status } }`;

for (const always of [false, true]) {
  test(`an answer that an event has overtaken ${always ? "again and again " : ""}does not undo it`, async (t) => {
    const who = newcomer();
    const id = await requestLecture(who);
    const held = slowFetch((text) => text.includes("Held"), { always });
    const urql = client(t, who, held.fetch);
    const query = gql`query Held($id: ID!) { lecture(id: $id) { id revision status durationSeconds } }`;
    const late = urql.query(query, { id }).toPromise();
    await overtaken(t, urql, held, id);
    const { lecture } = (await late).data;
    assert.deepEqual([lecture.status, lecture.durationSeconds], ["COMPLETED", always ? null : 20]);
    assert.equal(held.count, 2);
  });
}

test("a mutation that an event has overtaken is not sent again, and undoes nothing", async (t) => {
  const who = newcomer();
  const id = await requestLecture(who);
  const held = slowFetch((text) => text.includes("mutation"));
  const urql = client(t, who, held.fetch);
  await urql.query(LECTURE, { id }).toPromise();
  const input = { courseId: who.courseId, panoptoUrl: slowLectureUrl };
  const late = urql.mutation(gql(REQUEST), { input }).toPromise();
  await overtaken(t, urql, held, id);
  assert.equal((await late).data.requestLectureDownload.lecture.status, "COMPLETED");
  assert.equal(urql.readQuery(LECTURE, { id }).data.lecture.status, "COMPLETED");
  assert.equal(held.count, 1);
});

test("a query is sent by GET, or by its hash once it was sent whole", async (t) => {
  const { whole, fetch } = watchedFetch();
  const query = gql`query Mine${randomUUID().slice(0, 8)} { viewer { id } }`;
  for (const exchanges of [[], [persisted]]) {
    const urql = client(t, newcomer(), fetch, exchanges);
    for (let n = 0; n < 2; n++) {
      const { data, error } = await urql.query(query, {}, { requestPolicy: "network-only" }).toPromise();
      assert.equal(error, undefined);
      assert.ok(data.viewer.id);
    }
  }
  assert.deepEqual(whole, [true, true, false, true, false]);
});
