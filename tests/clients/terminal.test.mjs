import assert from "node:assert/strict";
import { request } from "node:http";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { newcomer, tokenOf, url } from "./service.mjs";

test("wscat is let in by its first message", async () => {
  const env = {
    ...process.env,
    PATH: `node_modules/.bin:${process.env.PATH}`,
    SOCKET: url.replace("http", "ws"),
    TOKEN: tokenOf(newcomer().user),
  };
  const wscat = spawn("sh", ["wscat.sh"], { env, stdio: ["pipe", "pipe", "inherit"] });
  assert.match(await text(wscat.stdout), /connection_ack/);
});

// Node sends no preflights, so this one is made by hand.
for (const [origin, allowed] of [["http://localhost:5173", true], ["http://evil.test", false]]) {
  test(`a page of ${origin} may ${allowed ? "" : "not "}send headers of its own`, async () => {
    const names = "authorization,content-type,sentry-trace,traceparent,apollographql-client-name";
    const headers = {
      Origin: origin,
      "Access-Control-Request-Method": "POST",
      "Access-Control-Request-Headers": names,
    };
    const [response] = await once(request(url, { method: "OPTIONS", headers }).end(), "response");
    response.resume();
    const told = (response.headers["access-control-allow-headers"] ?? "").toLowerCase();
    assert.equal(response.headers["access-control-allow-origin"], allowed ? origin : undefined);
    if (allowed) for (const name of names.split(",")) assert.ok(told.includes(name), name);
  });
}
