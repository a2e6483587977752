// @ts-check
import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { inspect } from "node:util";
import { gzipSync } from "node:zlib";
import { CaptionClient, saneRequestId } from "../src/index.js";
import { retryDelayMs } from "../src/retry.js";
import { failed, failure, hangUp, json, sayNothing, start } from "./service.js";

/** @typedef {import("./service.js").Turn} Turn */

const PICTURE = Buffer.from("a picture");
const CAPTION = { output: "a dog to the left of a cat" };

test("an answer becomes a caption with its id, timings and cache", async () => {
  const headers = { "X-Request-Id": "42", "X-Cache": "miss", "Server-Timing": "fetch;dur=1.5, generate;dur=20" };
  const { baseUrl, asked } = await start(json(200, CAPTION, headers));
  const client = new CaptionClient({ baseUrl, apiKey: "secret" });
  const caption = await client.caption("http://example.com/a.png", { prompt: "a", requestId: "42" });
  const timings = { fetch: 1.5, generate: 20 };
  assert.deepEqual(caption, { ...CAPTION, requestId: "42", timings, cache: "miss", attempts: 1 });
  assert.equal(asked[0].url, "/local-caption");
  assert.equal(asked[0].headers.authorization, "Bearer secret");
  assert.equal(asked[0].headers["x-request-id"], "42");
  assert.deepEqual(JSON.parse(asked[0].body), { imageUrl: "http://example.com/a.png", prompt: "a" });
});

test("a picture is sent as the body, with its options in the query", async () => {
  const { baseUrl, asked } = await start(json(200, CAPTION));
  const client = new CaptionClient({ baseUrl: `${baseUrl}/under/a/prefix` });
  await client.caption(PICTURE, { numBeams: 3, prompt: "a & b" });
  assert.equal(asked[0].url, "/under/a/prefix/local-caption?numBeams=3&prompt=a+%26+b");
  assert.equal(asked[0].headers["content-type"], "image/*");
  assert.equal(asked[0].body, "a picture");
});

test("connections are kept and used again", async () => {
  const { baseUrl, server } = await start(json(200, CAPTION));
  let connections = 0;
  server.on("connection", () => (connections += 1));
  const client = new CaptionClient({ baseUrl });
  for (let i = 0; i < 20; i++) await client.caption(PICTURE);
  assert(connections <= 3, `${connections} connections`);
});

test("what is not worth asking again is asked once, and its error is the service's own", async () => {
  for (const [status, code] of /** @type {[number, string][]} */ ([
    [400, "invalid_image_url"],
    [401, "unauthorized"],
    [422, "corrupt_image"],
    [500, "internal_error"],
    [504, "image_fetch_timeout"],
  ])) {
    const { baseUrl, asked } = await start(failure(status, code));
    const error = await failed(new CaptionClient({ baseUrl }).caption(PICTURE));
    assert.equal(asked.length, 1);
    const { message, requestId, retryable } = error;
    assert.deepEqual([error.status, error.code, requestId, retryable], [status, code, "42", false]);
    assert.equal(message, `The sentence of ${code}.`);
  }
});

test("what may be better later is asked again, under the same id", async () => {
  for (const turn of [failure(429, "overloaded"), failure(503, "model_loading"), failure(502, "image_fetch_failed")]) {
    const { baseUrl, asked } = await start(turn, json(200, CAPTION));
    const { output, attempts } = await new CaptionClient({ baseUrl }).caption(PICTURE);
    assert.deepEqual([output, attempts, asked.length], [CAPTION.output, 2, 2]);
    assert.equal(asked[0].headers["x-request-id"], asked[1].headers["x-request-id"]);
    assert.equal(asked[1].body, "a picture");
  }
});

test("a picture's host that fails is asked again once only", async () => {
  const { baseUrl, asked } = await start(failure(502, "image_fetch_failed"));
  const error = await failed(new CaptionClient({ baseUrl }).caption(PICTURE));
  assert.deepEqual([error.code, error.retryable, asked.length], ["image_fetch_failed", true, 2]);
});

test("Retry-After in seconds is waited for", async () => {
  for (const [status, code] of /** @type {[number, string][]} */ ([[429, "overloaded"], [502, "image_fetch_failed"]])) {
    const { baseUrl, asked } = await start(failure(status, code, { "Retry-After": "1" }), json(200, CAPTION));
    await new CaptionClient({ baseUrl }).caption(PICTURE);
    assert(asked[1].at - asked[0].at >= 990);
  }
});

test("Retry-After as a date is waited for, by the clock of whoever answers", async () => {
  const inAnHour = Date.now() + 3_600_000;
  const headers = { Date: new Date(inAnHour).toUTCString(), "Retry-After": new Date(inAnHour + 1_000).toUTCString() };
  const { baseUrl, asked } = await start(failure(503, "shutting_down", headers), json(200, CAPTION));
  await new CaptionClient({ baseUrl, timeoutMs: 10_000 }).caption(PICTURE);
  assert(asked[1].at - asked[0].at >= 990);
});

test("Retry-After that is neither is as none", async () => {
  for (const nonsense of ["soon", "-1", "1.5", "", "0x10"]) {
    const { baseUrl } = await start(failure(429, "overloaded", { "Retry-After": nonsense }));
    const error = await failed(new CaptionClient({ baseUrl, maxAttempts: 1 }).caption(PICTURE));
    assert.equal(error.retryAfter, null, nonsense);
  }
});

test("a wait that would outlast the deadline is not begun", async () => {
  const { baseUrl, asked } = await start(failure(429, "overloaded", { "Retry-After": "3600" }));
  const started = performance.now();
  const error = await failed(new CaptionClient({ baseUrl, timeoutMs: 30_000 }).caption(PICTURE));
  assert.deepEqual([error.code, error.retryAfter, asked.length], ["overloaded", 3_600, 1]);
  assert(performance.now() - started < 15_000);
});

test("attempts are counted", async () => {
  const { baseUrl, asked } = await start(failure(429, "overloaded"));
  await failed(new CaptionClient({ baseUrl, maxAttempts: 3 }).caption(PICTURE));
  assert.equal(asked.length, 3);
});

test("each wait lies between its bounds, grows, and has an end", () => {
  for (let attempt = 1; attempt <= 2_000; attempt++) {
    const backoff = Math.min(5_000, 200 * 2 ** (attempt - 1));
    const [least, most] = [retryDelayMs(attempt, null, () => 0), retryDelayMs(attempt, null, () => 1)];
    assert.deepEqual([least, most], [backoff / 2, backoff]);
    assert.deepEqual([retryDelayMs(attempt, 7, () => 0), retryDelayMs(attempt, 7, () => 1)], [7_000, 7_000 + backoff]);
  }
  const drawn = new Set(Array.from({ length: 100 }, () => retryDelayMs(3, 1)));
  assert(drawn.size > 90, "many callers that were turned away together must not come back together");
});

test("each attempt names what is left of the deadline", async () => {
  const { baseUrl, asked } = await start(failure(503, "model_loading"), json(200, CAPTION));
  await new CaptionClient({ baseUrl, timeoutMs: 20_000 }).caption(PICTURE, { timeoutMs: 10_000 });
  const [first, second] = asked.map((one) => Number(one.headers["x-request-timeout-ms"]));
  assert(first > 5_000 && first <= 10_000);
  assert(second <= first - 90, "it waited at least half of 200 ms");
});

test("the deadline ends an answer that does not come, or does not end", async () => {
  /** @type {Turn} */
  const drip = (res) => {
    res.writeHead(200).write("{");
    const drops = setInterval(() => res.write(" "), 20);
    res.on("close", () => clearInterval(drops));
  };
  for (const turn of [sayNothing, drip]) {
    const { baseUrl, asked } = await start(turn);
    const error = await failed(new CaptionClient({ baseUrl, timeoutMs: 300 }).caption(PICTURE, { requestId: "42" }));
    assert.deepEqual([error.code, error.status, error.requestId], ["deadline_exceeded", null, "42"]);
    assert.equal(asked.length, 1);
  }
});

test("who aborts gets the reason, and the connection ends", async () => {
  const stop = new AbortController();
  const { baseUrl, server } = await start((res) => {
    res.on("close", () => server.emit("left"));
    stop.abort(new Error("changed my mind"));
  });
  const left = once(server, "left");
  await assert.rejects(new CaptionClient({ baseUrl }).caption(PICTURE, { signal: stop.signal }), /changed my mind/);
  await left;
});

test("who aborts between attempts, or before the first, waits no longer", async () => {
  const { baseUrl, asked } = await start(failure(429, "overloaded", { "Retry-After": "20" }));
  const client = new CaptionClient({ baseUrl, timeoutMs: 60_000 });
  const stop = new AbortController();
  const started = performance.now();
  const caption = client.caption(PICTURE, { signal: stop.signal });
  setTimeout(() => stop.abort(), 200);
  await assert.rejects(caption, { name: "AbortError" });
  await assert.rejects(client.caption(PICTURE, { signal: AbortSignal.abort() }), { name: "AbortError" });
  assert(performance.now() - started < 15_000);
  assert.equal(asked.length, 1);
});

test("connections that break are tried again", async () => {
  /** @type {Turn} */
  const breakOff = (res) => {
    res.writeHead(200, { "Content-Length": "1000" }).write('{"output":');
    setTimeout(() => res.socket?.resetAndDestroy(), 50);
  };
  const { baseUrl, asked } = await start(hangUp, breakOff, (res) => res.socket?.resetAndDestroy(), json(200, CAPTION));
  const { output, attempts } = await new CaptionClient({ baseUrl }).caption(PICTURE);
  assert.deepEqual([output, attempts, asked.length], [CAPTION.output, 4, 4]);
});

test("where nobody listens, the error says so, and why, by whatever name", async () => {
  const { baseUrl, server } = await start(sayNothing);
  server.close();
  await once(server, "close");
  for (const url of [baseUrl, baseUrl.replace("127.0.0.1", "localhost")]) {
    const error = await failed(new CaptionClient({ baseUrl: url, maxAttempts: 2 }).caption(PICTURE));
    assert.deepEqual([error.code, error.status, error.retryable], ["connection_failed", null, true]);
    assert.match(error.message, /^The connection to the caption service failed: .*ECONNREFUSED 127\.0\.0\.1:\d+\.$/);
    assert.match(inspect(error), /\[cause\]: .*ECONNREFUSED/s);
  }
});

test("a proxy's own pages become clean errors", async () => {
  /** @param {number} status @returns {Turn} */
  const page = (status) => (res) => res.writeHead(status).end("<html>nginx</html>");
  for (const [status, retryable] of /** @type {[number, boolean][]} */ ([[200, false], [404, false], [502, true], [503, true]])) {
    const { baseUrl, asked } = await start(page(status));
    const error = await failed(new CaptionClient({ baseUrl, maxAttempts: 2 }).caption(PICTURE));
    assert.deepEqual([error.status, error.code, error.retryable], [status, "invalid_answer", retryable]);
    assert.equal(asked.length, retryable ? 2 : 1);
  }
});

test("JSON of the wrong shape is no caption", async () => {
  for (const nonsense of [null, 1, [], "output", {}, { output: null }, { output: ["a"] }, { error: "a", code: "b" }]) {
    const { baseUrl } = await start(json(200, nonsense));
    const error = await failed(new CaptionClient({ baseUrl }).caption(PICTURE));
    assert.equal(error.code, "invalid_answer", JSON.stringify(nonsense));
  }
});

test("an answer without end is not read to its end, packed or not", async () => {
  const bomb = gzipSync(Buffer.alloc(50_000_000, " "));
  let sent = 0;
  /** @type {Turn} */
  const flood = (res) => {
    const pour = () => {
      while (!res.destroyed && res.write(Buffer.alloc(65_536, " "))) sent += 65_536;
    };
    res.writeHead(200).on("drain", pour);
    pour();
  };
  for (const turn of [flood, /** @type {Turn} */ ((res) => res.writeHead(200, { "Content-Encoding": "gzip" }).end(bomb))]) {
    const { baseUrl } = await start(turn);
    const error = await failed(new CaptionClient({ baseUrl }).caption(PICTURE));
    assert.equal(error.code, "invalid_answer");
  }
  assert(sent < 50_000_000);
});

test("redirects are not followed: neither picture nor key goes elsewhere", async () => {
  const elsewhere = await start(json(200, CAPTION));
  const { baseUrl } = await start(json(307, {}, { Location: elsewhere.baseUrl }));
  const error = await failed(new CaptionClient({ baseUrl, apiKey: "secret" }).caption(PICTURE));
  assert.deepEqual([error.status, error.code, elsewhere.asked.length], [307, "invalid_answer", 0]);
});

test("an id that the service would not take is replaced", () => {
  assert.equal(saneRequestId("a:1"), "a:1");
  for (const given of ["", "two words", "line\nbreak", "é", "x".repeat(129), undefined]) {
    assert.match(saneRequestId(given), /^[0-9a-f-]{36}$/);
  }
});
