import assert from "node:assert/strict";
import { test } from "node:test";
import { openEvents } from "./events.js";
import { openSocket } from "./socket.js";
import { follow, newcomer, requestLecture, tokenOf, until, url } from "./helpers.mjs";

for (const [name, open] of Object.entries({ WebSocket: openSocket, SSE: openEvents })) {
  test(`over ${name} a lecture is followed to its end`, async (t) => {
    const who = newcomer();
    const client = open({ url, getToken: who.getToken });
    t.after(() => client.dispose());
    const { states, ended } = follow(client, await requestLecture(who));
    await ended;
    assert.equal(states.at(-1).status, "COMPLETED");
  });
}

test("a socket goes on with a fresh token where its own has expired", async (t) => {
  const who = newcomer();
  const tokens = [];
  const getToken = async () => tokens[tokens.push(tokenOf(who.user, 1)) - 1];
  let again = 0;
  const client = openSocket({ url, getToken, onReconnected: () => (again += 1) });
  t.after(() => client.dispose());
  client.subscribe({ query: "subscription { myLectures { lectureId } }" }, { next() {}, error() {}, complete() {} });
  await until(() => again > 1, "it has connected again, twice");
  assert.ok(tokens.length > 2);
});
