// What the scripts share: the service's address, tokens of its development issuer, plain requests.
import { createHash, createPrivateKey, createPublicKey, randomUUID, sign } from "node:crypto";
import { readFileSync, readdirSync, readlinkSync } from "node:fs";

export const url = process.env.URL;
// The first takes two seconds, the second thirty.
export const slowLectureUrl = process.env.SLOW_LECTURE_URL;
export const slowerLectureUrl = process.env.SLOWER_LECTURE_URL;

const key = createPrivateKey(readFileSync(process.env.ISSUER_KEY));
const der = createPublicKey(key).export({ type: "spki", format: "der" });
const kid = createHash("sha256").update(der).digest("hex").slice(0, 16);

export function tokenOf(user, seconds = 3600) {
  const now = Math.floor(Date.now() / 1000);
  const iss = "https://development.studybuddy.invalid";
  const claims = { iss, sub: user, iat: now, nbf: now, exp: now + seconds };
  const parts = [{ alg: "RS256", kid, typ: "JWT" }, claims];
  const text = parts.map((each) => Buffer.from(JSON.stringify(each)).toString("base64url")).join(".");
  return `${text}.${sign("RSA-SHA256", Buffer.from(text), key).toString("base64url")}`;
}

// A user and a course that no other test has.
export function newcomer(name = "user") {
  const user = `${name}-${randomUUID()}`;
  return { user, courseId: randomUUID(), getToken: async () => tokenOf(user) };
}

export async function ask({ user }, query, variables) {
  const headers = { "Content-Type": "application/json", Authorization: `Bearer ${tokenOf(user)}` };
  const response = await fetch(url, { method: "POST", headers, body: JSON.stringify({ query, variables }) });
  const answer = await response.json();
  if (answer.errors) throw new Error(JSON.stringify(answer.errors));
  return answer.data;
}

export async function requestLecture(who, panoptoUrl = slowLectureUrl, courseId = who.courseId) {
  const data = await ask(who, REQUEST, { input: { courseId, panoptoUrl } });
  return data.requestLectureDownload.lecture.id;
}

export const REQUEST = `mutation ($input: RequestLectureDownloadInput!) { requestLectureDownload(input: $input) {
  ... on RequestLectureDownloadPayload { lecture { id revision status } } } }`;

export const STATUS = `subscription Status($id: ID!) { lectureStatus(id: $id) { id status revision } }`;

// Collects the states of the lecture; `ended` settles as the client's own stream does.
export function follow(client, id) {
  const states = [];
  const ended = new Promise((complete, error) => {
    const next = ({ data, errors }) => (errors ? error(new Error(JSON.stringify(errors))) : states.push(data.lectureStatus));
    client.subscribe({ query: STATUS, variables: { id } }, { next, complete, error });
  });
  return { states, ended };
}

export const pdf = (name) =>
  new File(
    [
      "%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>" +
        "endobj\n3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]>>endobj\n" +
        `trailer<</Root 1 0 R>>\n%${randomUUID()}\n%%EOF\n`,
    ],
    name,
    { type: "application/pdf" },
  );

export async function until(look, what, seconds = 30) {
  const deadline = Date.now() + 1000 * seconds;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`not within ${seconds} s: ${what}`);
    await new Promise((done) => setTimeout(done, 30));
  }
}

// A fetch that notes of each request whether it carried the query's text.
export function watchedFetch() {
  const whole = [];
  const watched = (input, init) => {
    const { searchParams } = new URL(input);
    whole.push(searchParams.has("query") || Boolean(init.body && JSON.parse(init.body).query));
    return fetch(input, init);
  };
  return { whole, fetch: watched };
}

// A fetch whose first answer, where `isHeld` says so, arrives only once `letGo` has been called. With
// `always` it is the answer to further requests too, as where events are faster than any answer.
export function slowFetch(isHeld, { always = false } = {}) {
  let letGo, first;
  const gate = new Promise((done) => (letGo = done));
  const held = { count: 0, letGo };
  held.fetch = async (input, init) => {
    const response = await fetch(input, init);
    if (!isHeld(String(init?.body ?? input))) return response;
    held.count += 1;
    if (held.count > 1 && !always) return response;
    first ??= await response.text();
    await gate;
    return new Response(first, response);
  };
  return held;
}

// Kill the service's process of that name (`api`, `postgres`), and return whether there was one; its
// supervisor starts another. Those of this service know its folder, or work in it.
export function kill(name) {
  let found = false;
  for (const pid of readdirSync("/proc").filter((each) => /^\d+$/.test(each))) {
    try {
      const environment = readFileSync(`/proc/${pid}/environ`, "latin1");
      const command = readFileSync(`/proc/${pid}/cmdline`, "latin1").split("\0");
      const folder = process.env.SERVICE_DATA;
      const isOurs = environment.includes(`=${folder}`) || readlinkSync(`/proc/${pid}/cwd`).startsWith(folder);
      if (!isOurs || !command.some((each) => each.endsWith(name))) continue;
      process.kill(Number(pid), "SIGKILL");
      found = true;
    } catch (error) {
      if (!["ENOENT", "ESRCH", "EACCES"].includes(error.code)) throw error;
    }
  }
  return found;
}
