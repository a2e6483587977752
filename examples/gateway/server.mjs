// @ts-check
/** A gateway in front of the captioning service: POST /captions for callers of its own, and GET /healthz. */
import { createServer } from "node:http";
import { CaptionClient, saneRequestId } from "smartscan-captions";
import { BoundedQueue } from "./boundedQueue.mjs";
import { readCaptionRequest } from "./captionRequest.mjs";
import { Refusal, toRefusal } from "./refusals.mjs";

/**
 * @typedef {import("node:http").IncomingMessage} Request
 * @typedef {import("node:http").ServerResponse} Response
 */

const given = process.env.CAPTION_SERVICE_URL || "http://127.0.0.1:8000";
// Platforms name a service on their private network as host:port.
const serviceUrl = /^[\w.-]+:\d+$/.test(given) ? `http://${given}` : given;
if (!/^https?:/.test(serviceUrl) || !URL.canParse(serviceUrl)) end("CAPTION_SERVICE_URL: an http: or https: URL.");
const port = wholeNumber("PORT", 3000, 0);
const timeoutMs = wholeNumber("CAPTION_TIMEOUT_MS", 30_000);
const maxAttempts = wholeNumber("CAPTION_MAX_ATTEMPTS", 10);
const maxConcurrent = wholeNumber("MAX_CONCURRENT", 32);
const maxWaiting = wholeNumber("MAX_WAITING", 256, 0);
const maxBodyBytes = wholeNumber("MAX_BODY_BYTES", 10 * 1024 * 1024);

const client = new CaptionClient({ baseUrl: serviceUrl, apiKey: process.env.CAPTION_API_KEY, timeoutMs, maxAttempts });
const queue = new BoundedQueue(maxConcurrent, maxWaiting);
let accepted = 0; // captions that are owed an answer

const server = createServer(
  // Longer than a proxy keeps a connection, so that the proxy is the one to close; longer than any request waits here.
  { keepAliveTimeout: 75_000, requestTimeout: timeoutMs + 5_000 },
  (req, res) => {
    const path = req.url?.split("?")[0];
    if (path === "/captions" && req.method === "POST") return answerCaption(req, res);
    if (path === "/healthz") return answer(res, 200, { status: "ok", running: queue.running, waiting: queue.waiting });
    return answer(res, 404, { error: "There is POST /captions and GET /healthz.", code: "not_found" });
  },
);

/**
 * @param {Request} req
 * @param {Response} res
 */
async function answerCaption(req, res) {
  const started = performance.now();
  const requestId = saneRequestId(String(req.headers["x-request-id"] ?? ""));
  const stop = new AbortController();
  accepted += 1;
  res.on("close", () => {
    accepted -= 1;
    stop.abort(new Refusal(499, "caller_gone", "The caller went away."));
    endIfDone();
  });
  res.setHeader("X-Request-Id", requestId);
  try {
    const { output, cache, timings, attempts, waitedMs } = await makeCaption(req, requestId, stop);
    if (cache) res.setHeader("X-Cache", cache);
    answer(res, 200, { output });
    log({ requestId, status: 200, ms: since(started), waitedMs, attempts, cache, timings });
  } catch (error) {
    const { status, code, message, retryAfter } = toRefusal(error);
    if (retryAfter) res.setHeader("Retry-After", retryAfter);
    answer(res, status, { error: message, code, requestId });
    const cause = status === 500 ? Object(error).stack : status > 500 ? String(error) : undefined;
    log({ requestId, status, code, ms: since(started), cause });
  }
}

/**
 * Wait for a turn, and only then read the body: who waits holds no memory.
 *
 * @param {Request} req
 * @param {string} requestId
 * @param {AbortController} stop
 */
async function makeCaption(req, requestId, stop) {
  const arrived = performance.now();
  const allowedMs = Math.min(timeoutMs, Number(req.headers["x-request-timeout-ms"]) || Infinity);
  const late = () => stop.abort(new Refusal(504, "deadline_exceeded", "The caption could not be made in time."));
  const timer = setTimeout(late, allowedMs);
  try {
    return await queue.run(async () => {
      const waitedMs = since(arrived);
      const { picture, options } = await readCaptionRequest(req, maxBodyBytes, stop.signal);
      const leftMs = Math.max(1, allowedMs - since(arrived));
      const made = await client.caption(picture, { ...options, requestId, timeoutMs: leftMs, signal: stop.signal });
      return { ...made, waitedMs };
    }, stop.signal);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * @param {Response} res
 * @param {number} status
 * @param {object} body
 */
function answer(res, status, body) {
  if (!server.listening) res.setHeader("Connection", "close");
  res.setHeader("Content-Type", "application/json");
  res.statusCode = status;
  res.end(JSON.stringify(body));
}

/** @param {number} started */
function since(started) {
  return Math.round(performance.now() - started);
}

/** @param {object} entry */
function log(entry) {
  console.log(JSON.stringify({ time: new Date().toISOString(), ...entry }));
}

/**
 * @param {string} name
 * @param {number} fallback
 * @param {number} [least]
 */
function wholeNumber(name, fallback, least = 1) {
  const value = Number(process.env[name] || fallback);
  if (!Number.isInteger(value) || value < least || value >= 2 ** 31) end(`${name}: a whole number from ${least} on.`);
  return value;
}

/**
 * @param {string} message
 * @returns {never}
 */
function end(message) {
  console.error(message);
  process.exit(1);
}

/** Take no more, finish what was taken, and let the process end by itself. */
function stopServing() {
  log({ event: "stopping", running: queue.running, waiting: queue.waiting });
  server.close();
  endIfDone();
}

/** Once no caption is owed any more, hang up on what is left: kept connections and halves of requests. */
function endIfDone() {
  if (!server.listening && accepted === 0) server.closeAllConnections();
}

for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, stopServing);
server.on("error", (error) => {
  const taken = "code" in error && error.code === "EADDRINUSE";
  end(taken ? `PORT: ${port} is taken; set another one.` : `PORT: ${port} cannot be used: ${error.message}.`);
});
server.listen(port, () => log({ event: "listening", port: Object(server.address()).port, serviceUrl }));
