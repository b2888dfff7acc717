import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { newcomer, tokenOf, url } from "./helpers.mjs";

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
