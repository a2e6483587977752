// @ts-check
import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { CaptionClient } from "../src/index.js";
import { failed, failure, json, sayNothing, start } from "./service.js";

/** @typedef {import("./service.js").Turn} Turn */

/** @param {object[]} lines @returns {Turn} */
function answer(...lines) {
  return (res) => res.writeHead(200).end(lines.map((line) => JSON.stringify(line) + "\n").join(""));
}

/** Say of each picture what its URL is. @type {Turn} */
const echo = (res, asked) => {
  const { imageUrls } = JSON.parse(asked.body);
  answer(...imageUrls.map((/** @type {string} */ output, /** @type {number} */ index) => ({ index, output })))(res, asked);
};

/** @template T @param {AsyncIterable<T>} iterable @returns {Promise<T[]>} */
async function all(iterable) {
  const items = [];
  for await (const item of iterable) items.push(item);
  return items;
}

const urls = (/** @type {number} */ count) => Array.from({ length: count }, (_, i) => `https://example.com/${i}.png`);

test("results come as they are known, each with its picture's place", async () => {
  const failureOfOne = { error: "There is none.", code: "image_not_found" };
  const { baseUrl, asked } = await start(answer({ index: 1, ...failureOfOne }, { index: 0, output: "a dog", tokens: 2 }));
  const client = new CaptionClient({ baseUrl, apiKey: "secret" });
  const [second, first] = await all(client.captionMany(urls(2), { numBeams: 3, requestId: "42" }));
  assert.deepEqual(first, { index: 0, output: "a dog", tokens: 2 });
  assert.equal(second.index, 1);
  const { code, message, requestId, status } = second.error ?? {};
  assert.deepEqual([code, message, requestId, status], ["image_not_found", "There is none.", "42", null]);
  assert.equal(asked[0].url, "/local-captions");
  assert.equal(asked[0].headers.accept, "application/x-ndjson");
  assert.equal(asked[0].headers.authorization, "Bearer secret");
  assert.deepEqual(JSON.parse(asked[0].body), { imageUrls: urls(2), numBeams: 3 });
});

test("a result is handed on before the next is known", async () => {
  /** @type {() => void} */
  let goOn = () => {};
  const { baseUrl } = await start((res) => {
    res.writeHead(200).write('{"index": 1, "output": "a cat"}\n');
    goOn = () => res.end('{"index": 0, "output": "a dog"}'); // without a last line break
  });
  const results = new CaptionClient({ baseUrl }).captionMany(urls(2));
  assert.deepEqual((await results.next()).value, { index: 1, output: "a cat" });
  goOn();
  assert.deepEqual((await results.next()).value, { index: 0, output: "a dog" });
  assert.equal((await results.next()).done, true);
});

test("any number, from any iterable, in requests that the service takes", async () => {
  const { baseUrl, asked } = await start(echo);
  async function* read() {
    yield* urls(150);
  }
  for (const pictures of [urls(150), new Set(urls(150)), read()]) {
    asked.length = 0;
    const results = await all(new CaptionClient({ baseUrl }).captionMany(pictures));
    assert.deepEqual(results, urls(150).map((output, index) => ({ index, output })));
    assert.deepEqual(asked.map((one) => JSON.parse(one.body).imageUrls.length), [64, 64, 22]);
  }
  assert.deepEqual(await all(new CaptionClient({ baseUrl }).captionMany([])), []);
});

test("bytes go as forms of bounded size, URLs as JSON, and each result has its picture's place", async () => {
  const { baseUrl, asked } = await start(async (res, one) => {
    if (one.headers["content-type"] === "application/json") return echo(res, one);
    const form = await new Response(one.bytes, { headers: { "content-type": String(one.headers["content-type"]) } }).formData();
    assert.deepEqual([form.get("prompt"), form.get("numBeams"), form.get("details")], ['a "ü"\r\n--', "2", "true"]);
    const images = /** @type {File[]} */ (form.getAll("image"));
    const last = async (/** @type {Blob} */ image) => Buffer.from(await image.arrayBuffer()).at(-1);
    const outputs = await Promise.all(images.map(async (image) => `${image.size} to ${await last(image)}`));
    answer(...outputs.map((output, index) => ({ index, output })))(res, one);
  });
  const small = Buffer.from("a picture");
  const large = (/** @type {number} */ value) => new Uint8Array(3_000_000).fill(value);
  const url = "https://example.com/";
  const pictures = [small, url, new Blob([small]), large(1), large(2), large(3).buffer, new URL(url), new Uint8Array(5_000_000)];
  const options = { prompt: 'a "ü"\r\n--', numBeams: 2, details: true };
  const results = await all(new CaptionClient({ baseUrl }).captionMany([...pictures, new Uint8Array()], options));
  const outputs = results.sort((one, other) => one.index - other.index).map(({ output }) => output);
  const [e] = Buffer.from("e");
  assert.deepEqual(outputs.slice(0, 5), [`9 to ${e}`, url, `9 to ${e}`, "3000000 to 1", "3000000 to 2"]);
  assert.deepEqual(outputs.slice(5), ["3000000 to 3", url, "5000000 to 0", "0 to undefined"]);
  assert.deepEqual(asked.map((one) => Math.round(one.bytes.length / 1e6)).sort(), [0, 0, 3, 3, 3, 5]);
});

test("a form is sent again as it was", async () => {
  const { baseUrl, asked } = await start(failure(503, "model_loading"), answer({ index: 0, output: "a dog" }));
  const [{ output }] = await all(new CaptionClient({ baseUrl }).captionMany([Buffer.from("a picture")]));
  const withoutBoundary = asked.map((one) => one.body.replaceAll(/--[-0-9a-f]{36}/g, ""));
  assert.deepEqual([output, withoutBoundary.length, withoutBoundary[0]], ["a dog", 2, withoutBoundary[1]]);
});

test("what may be better later is asked again, and only that", async () => {
  const { baseUrl, asked } = await start(
    failure(429, "overloaded"),
    answer({ index: 2, output: "2" }, { index: 0, error: "Full.", code: "overloaded" }, { index: 1, output: "1" }),
    (res) => {
      res.writeHead(200).write('{"index": 0, "output": "0"}\n{"index"');
      setTimeout(() => res.socket?.resetAndDestroy(), 50);
    },
    echo,
  );
  const results = await all(new CaptionClient({ baseUrl }).captionMany([...urls(3), "https://example.com/3.png"]));
  assert.deepEqual(results.map(({ index }) => index), [2, 1, 0, 3]);
  assert.deepEqual(asked.map((one) => JSON.parse(one.body).imageUrls.map((/** @type {string} */ url) => url.at(-5))), [
    ["0", "1", "2", "3"], ["0", "1", "2", "3"], ["0", "3"], ["3"],
  ]); // prettier-ignore
});

test("what stays as it is has its error in the end", async () => {
  const { baseUrl, asked } = await start(answer({ index: 0, error: "No host.", code: "image_fetch_failed" }));
  const [{ error }] = await all(new CaptionClient({ baseUrl }).captionMany(urls(1)));
  assert.deepEqual([error?.code, error?.retryable, asked.length], ["image_fetch_failed", true, 2]);
});

test("a service that cannot be used ends the loop with its error", async () => {
  for (const [status, code] of /** @type {[number, string][]} */ ([[401, "unauthorized"], [400, "invalid_parameter"]])) {
    const { baseUrl, asked } = await start(failure(status, code));
    const error = await failed(all(new CaptionClient({ baseUrl }).captionMany(urls(100))));
    assert.deepEqual([error.status, error.code, asked.length], [status, code, 1]);
  }
});

test("lines that are not the service's are no captions", async () => {
  for (const turn of [
    answer({ index: 7, output: "whose?" }),
    answer({ output: "whose?" }),
    json(200, ["output"]),
    /** @type {Turn} */ ((res) => res.writeHead(200).end("<html>\n")),
  ]) {
    const { baseUrl } = await start(turn);
    const error = await failed(all(new CaptionClient({ baseUrl, maxAttempts: 1 }).captionMany(urls(1))));
    assert.equal(error.code, "invalid_answer");
  }
});

test("an answer that ends early, or never goes on, is an error", async () => {
  const { baseUrl } = await start((res) => res.writeHead(200).end());
  const early = await failed(all(new CaptionClient({ baseUrl, maxAttempts: 2 }).captionMany(urls(1))));
  assert.equal(early.code, "connection_failed");
  for (const turn of [sayNothing, /** @type {Turn} */ ((res) => res.writeHead(200).write("{"))]) {
    const { baseUrl } = await start(turn);
    const late = await failed(all(new CaptionClient({ baseUrl }).captionMany(urls(1), { timeoutMs: 200 })));
    assert.equal(late.code, "deadline_exceeded");
  }
});

test("whoever leaves the loop, or aborts, ends the request", async () => {
  for (const leave of ["break", "abort"]) {
    const { baseUrl, server } = await start((res) => {
      res.on("close", () => server.emit("left"));
      res.writeHead(200).write('{"index": 0, "output": "a dog"}\n');
    });
    const left = once(server, "left");
    const stop = new AbortController();
    const loop = async () => {
      for await (const _ of new CaptionClient({ baseUrl }).captionMany(urls(2), { signal: stop.signal })) {
        if (leave === "break") break;
        stop.abort(new Error("changed my mind"));
      }
    };
    if (leave === "break") await loop();
    else await assert.rejects(loop, /changed my mind/);
    await left;
  }
});

test("whoever takes the results may take time", async () => {
  const { baseUrl } = await start(answer({ index: 0, output: "a" }, { index: 1, output: "b" }));
  const results = new CaptionClient({ baseUrl }).captionMany(urls(2), { timeoutMs: 2_000 });
  assert.equal((await results.next()).value?.output, "a");
  await new Promise((resolve) => setTimeout(resolve, 2_500));
  assert.equal((await results.next()).value?.output, "b");
});
