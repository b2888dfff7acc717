import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";

const OPERATION = `mutation Upload($input: UploadDocumentInput!) { uploadDocument(input: $input) {
  ... on UploadDocumentPayload { document { id courseId sizeBytes createdAt } } ... on Error { message } } }`;

test("every scalar has a type", () => {
  mkdirSync("documents", { recursive: true });
  writeFileSync("documents/upload.graphql", OPERATION);
  execFileSync("node_modules/.bin/graphql-codegen", ["--config", "codegen.config.mjs"], { encoding: "utf8" });
  const generated = readFileSync("generated/graphql.ts", "utf8");
  for (const field of ["courseId: string", "sizeBytes: number", "createdAt: string", "file: File"])
    assert.match(generated, new RegExp(`${field}[;, ]`));
});
