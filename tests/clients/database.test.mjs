import assert from "node:assert/strict";
import { test } from "node:test";
import { openEvents } from "./events.js";
import { openSocket } from "./socket.js";
import { follow, kill, newcomer, requestLecture, until, url } from "./helpers.mjs";

// Longer than the looks of `lectureStatus` at its row are apart.
const AWAY_SECONDS = 14;

test("a database that is away costs nothing", async (t) => {
  const who = newcomer();
  const options = { url, getToken: who.getToken };
  const clients = [openSocket(options), openEvents(options)];
  t.after(() => clients.forEach((client) => client.dispose()));
  const id = await requestLecture(who);
  const followed = clients.map((client) => follow(client, id));
  await until(() => followed.every(({ states }) => states.length), "the first states");
  const killing = setInterval(() => kill("postgres"), 200);
  setTimeout(() => clearInterval(killing), 1000 * AWAY_SECONDS);
  for (const { states, ended } of followed) {
    await ended;
    assert.equal(states.at(-1).status, "COMPLETED");
  }
});
