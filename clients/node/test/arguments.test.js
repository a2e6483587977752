// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";
import { runInNewContext } from "node:vm";
import { CaptionClient } from "../src/index.js";
import { failed, json, start } from "./service.js";

const CAPTION = { output: "a dog" };
/** @type {any} */
const anything = (/** @type {unknown} */ value) => value;

test("a picture may be a URL, an object of one, or bytes of any kind", async () => {
  const { baseUrl, asked } = await start(json(200, CAPTION));
  const client = new CaptionClient({ baseUrl: new URL(baseUrl) });
  await client.caption("https://example.com/a.png");
  await client.caption(new URL("https://example.com/a.png"));
  for (const one of asked) assert.deepEqual(JSON.parse(one.body), { imageUrl: "https://example.com/a.png" });
  const bytes = new TextEncoder().encode("a picture");
  const ofAnotherRealm = anything(runInNewContext("new Uint8Array([97, 32, 112, 105, 99, 116, 117, 114, 101])"));
  const part = new Uint8Array([0, ...bytes, 0]).subarray(1, -1); // not the whole of its buffer
  const kinds = [bytes, part, Buffer.from(bytes), bytes.buffer, new Blob([bytes]), new File([bytes], "a.jpg"), ofAnotherRealm];
  for (const picture of kinds) {
    assert.equal((await client.caption(picture)).output, CAPTION.output);
    assert.deepEqual([asked.at(-1)?.body, asked.at(-1)?.headers["content-type"]], ["a picture", "image/*"]);
  }
});

test("what cannot be sent as it is meant is refused in a sentence, before anything is sent", async () => {
  const { baseUrl, asked } = await start(json(200, CAPTION));
  const client = new CaptionClient({ baseUrl });
  const url = "https://example.com/a.png";
  /** @type {[() => unknown, string][]} */
  const refusals = [
    [() => new CaptionClient(anything(undefined)), "baseUrl"],
    ...["not a URL", "localhost:8000", "ftp://localhost", undefined, 8000, "http://"].map(
      (bad) => /** @type {[() => unknown, string]} */ ([() => new CaptionClient({ baseUrl: anything(bad) }), "baseUrl"]),
    ),
    ...["line\nbreak", "é", 7].map(
      (apiKey) => /** @type {[() => unknown, string]} */ ([() => new CaptionClient({ baseUrl, apiKey: anything(apiKey) }), "apiKey"]),
    ),
    ...[0, -1, NaN, Infinity, 2 ** 31, "30", null].flatMap((timeoutMs) => {
      const bad = { timeoutMs: anything(timeoutMs) };
      /** @type {[() => unknown, string][]} */
      const each = [
        [() => new CaptionClient({ baseUrl, ...bad }), "timeoutMs"],
        [() => client.caption(url, bad), "timeoutMs"],
        [() => client.captionMany([url], bad).next(), "timeoutMs"],
      ];
      return each;
    }),
    ...[0, 1.5, NaN].map(
      (maxAttempts) => /** @type {[() => unknown, string]} */ ([() => new CaptionClient({ baseUrl, maxAttempts }), "maxAttempts"]),
    ),
    [() => new CaptionClient({ baseUrl, fetch: anything("fetch") }), "fetch"],
    ...[undefined, null, 7, {}, { imageUrl: url }, [url], new DataView(new ArrayBuffer(1))].map(
      (picture) => /** @type {[() => unknown, string]} */ ([() => client.caption(anything(picture)), "picture"]),
    ),
    ...[undefined, null, 7, url, Buffer.from("a"), {}].map(
      (pictures) => /** @type {[() => unknown, string]} */ ([() => client.captionMany(anything(pictures)).next(), "pictures"]),
    ),
    [() => client.captionMany([url, anything(7)]).next(), "pictures[1]"],
    [() => client.caption(url, anything("a prompt")), "options"],
    [() => client.caption(url, anything({ maxTokens: 3 })), "maxTokens"],
    [() => client.caption(url, { numBeams: NaN }), "numBeams"],
    [() => client.caption(url, { prompt: anything(["a"]) }), "prompt"],
    [() => client.caption(url, { signal: anything({ aborted: false }) }), "signal"],
  ];
  for (const [call, name] of refusals) {
    const error = await failed((async () => call())());
    assert.deepEqual([error.code, error.status, error.requestId, error.retryable], ["invalid_argument", null, null, false]);
    assert.match(error.message, /^[^\n]+\.$/);
    assert(error.message.includes(name), `${name}: ${error.message}`);
  }
  assert.equal(asked.length, 0);
});

test("options that are not given are not sent", async () => {
  const { baseUrl, asked } = await start(json(200, CAPTION));
  const client = new CaptionClient({ baseUrl });
  await client.caption("https://example.com/a.png", { prompt: undefined, numBeams: anything(null), details: true });
  assert.deepEqual(JSON.parse(asked[0].body), { imageUrl: "https://example.com/a.png", details: true });
});
