import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import { openEvents } from "./events.js";
import { openSocket } from "./socket.js";
import { follow, kill, newcomer, requestLecture, slowerLectureUrl, until, url } from "./service.mjs";

// Longer than the looks of `lectureStatus` at its row are apart.
const AWAY_SECONDS = 60;
const USERS = 5;
// Of each user with each client: 50 streams in all.
const STREAMS = 5;

test("a database that is away costs nothing", async (t) => {
  const followed = [];
  for (const who of Array.from({ length: USERS }, () => newcomer())) {
    const options = { url, getToken: who.getToken };
    const clients = [openSocket(options), openEvents(options)];
    t.after(() => clients.forEach((client) => client.dispose()));
    const id = await requestLecture(who, slowerLectureUrl, randomUUID());
    for (const client of clients) for (let n = 0; n < STREAMS; n++) followed.push(follow(client, id));
  }
  let ended = 0;
  for (const stream of followed) stream.ended.then(() => (ended += 1), () => (ended += 1));
  await until(() => followed.every(({ states }) => states.length), "the first states");
  assert.equal(ended, 0);
  let kills = 0;
  const killing = setInterval(() => (kills += kill("postgres")), 50);
  await new Promise((done) => setTimeout(done, 1000 * AWAY_SECONDS));
  clearInterval(killing);
  assert.equal(ended, 0);
  assert.ok(kills > 1);
  const back = Date.now();
  for (const { states, ended } of followed) {
    await ended;
    assert.equal(states.at(-1).status, "COMPLETED");
    const revisions = states.map(({ revision }) => revision);
    assert.deepEqual(revisions, revisions.toSorted((a, b) => a - b));
  }
  t.diagnostic(`${followed.length} streams, all right ${(Date.now() - back) / 1000} s after ${AWAY_SECONDS} s and ${kills} kills`);
});
