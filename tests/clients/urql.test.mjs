import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import { gql } from "@urql/core";
import { getIntrospectionQuery } from "graphql";
import { openSocket } from "./socket.js";
import { persisted } from "./urql-persisted.js";
import { makeUrql } from "./urql.js";
import {
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
} from "./helpers.mjs";

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

test("an answer that an event has overtaken does not undo it", async (t) => {
  const who = newcomer();
  const id = await requestLecture(who, slowLectureUrl);
  const held = slowFetch((text) => text.includes("Held"));
  const urql = client(t, who, held.fetch);
  const query = gql`query Held($id: ID!) { lecture(id: $id) { id revision status } }`;
  let seen;
  const watching = urql.query(query, { id }).subscribe((result) => (seen = result.data?.lecture.status));
  t.after(() => watching.unsubscribe());
  await until(() => held.count, "the answer is held back");
  const states = [];
  const live = urql.subscription(gql(STATUS), { id }).subscribe(({ data }) => states.push(data?.lectureStatus.status));
  t.after(() => live.unsubscribe());
  await until(() => states.at(-1) === "COMPLETED", "the lecture is there");
  held.letGo();
  await until(() => seen, "the answer is there");
  assert.equal(seen, "COMPLETED");
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
