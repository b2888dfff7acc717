import assert from "node:assert/strict";
import { test } from "node:test";
import { openEvents } from "./events.js";
import { openSocket } from "./socket.js";
import { follow, newcomer, requestLecture, tokenOf, until, url } from "./service.mjs";

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

for (const [name, open] of Object.entries({ WebSocket: openSocket, SSE: openEvents })) {
  test(`over ${name} a stream goes on with a fresh token where its own has expired`, async (t) => {
    const who = newcomer();
    const lives = [];
    const getToken = async () => tokenOf(who.user, lives.push("token") < 3 ? 1 : 3600);
    const client = open({ url, getToken });
    t.after(() => client.dispose());
    const seen = [];
    let ended;
    client.subscribe(
      { query: "subscription { myLectures { lectureId } }" },
      { next: ({ data }) => seen.push(data?.myLectures.lectureId), error: (e) => (ended = e), complete: () => (ended = true) },
    );
    await until(() => lives.length > 2, "it has connected again, twice");
    const id = await requestLecture(who);
    await until(() => seen.includes(id), "it tells of a lecture");
    assert.equal(ended, undefined);
  });
}
