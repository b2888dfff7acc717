import assert from "node:assert/strict";
import { test } from "node:test";
import { openEvents } from "./events.js";
import { openSocket } from "./socket.js";
import { follow, kill, newcomer, requestLecture, until, url } from "./service.mjs";

test("a killed API costs nothing", async (t) => {
  const who = newcomer();
  let again = 0;
  const options = { url, getToken: who.getToken, onReconnected: () => (again += 1) };
  const clients = [openSocket(options), openEvents(options)];
  t.after(() => clients.forEach((client) => client.dispose()));
  const id = await requestLecture(who);
  const followed = clients.map((client) => follow(client, id));
  await until(() => followed.every(({ states }) => states.length), "the first states");
  assert.ok(kill("api"));
  for (const { states, ended } of followed) {
    await ended;
    assert.equal(states.at(-1).status, "COMPLETED");
  }
  assert.ok(again > 0);
});
