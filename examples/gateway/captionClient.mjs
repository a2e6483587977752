// @ts-check
/**
 * A client of the captioning service in one file without dependencies, for Node 20 or newer: copy it out.
 *
 *     const client = new CaptionClient({ baseUrl: "http://localhost:8000" });
 *     const { output } = await client.caption({ imageUrl: "https://example.com/image.jpg" });
 */
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

const FIRST_BACKOFF_MS = 200;
const LONGEST_BACKOFF_MS = 5_000;
const MAX_ANSWER_BYTES = 64 * 1024;
const MAX_TIMEOUT_MS = 2 ** 31 - 1; // a longer timer of Node's fires at once

/**
 * @typedef {{ imageUrl: string } | { image: Uint8Array | Blob, contentType?: string }} Picture
 *   an http:, https: or data: URL, or the picture itself (a Buffer is a Uint8Array)
 * @typedef {object} CaptionOptions
 * @property {string} [prompt] text that the caption continues
 * @property {number} [maxNewTokens] longest continuation, in tokens
 * @property {number} [numBeams] beams to search; 1 is greedy
 * @property {string} [requestId] found again in the service's log; made when missing or not sane
 * @property {number} [timeoutMs] for this call, where less than the client's
 * @property {AbortSignal} [signal] ends the call and its wait; it then rejects with the signal's reason
 * @typedef {object} Caption
 * @property {string} output the caption
 * @property {string} requestId
 * @property {Record<string, number>} timings milliseconds by stage, of the service's Server-Timing
 * @property {string | null} cache "hit" or "miss"; null where the service says nothing
 * @property {number} attempts how often the service was asked
 */

/** Say why there is no caption: the service's own status, code and sentence where it gave them. */
export class CaptionError extends Error {
  /**
   * @param {string} message
   * @param {{ code: string, requestId: string, status?: number | null, retryAfterMs?: number | null, cause?: unknown }} details
   */
  constructor(message, { code, requestId, status = null, retryAfterMs = null, cause }) {
    super(message, { cause });
    this.name = "CaptionError";
    /** The answer's HTTP status; null where no answer came. */
    this.status = status;
    /** The service's code, or connection_failed, invalid_answer or deadline_exceeded. */
    this.code = code;
    this.requestId = requestId;
    /** What the service asked to wait before the next attempt. */
    this.retryAfterMs = retryAfterMs;
    /** Whether the same request may well succeed a little later. */
    this.retryable = code === "connection_failed" || [429, 502, 503].includes(status ?? 0);
  }
}

export class CaptionClient {
  #url;
  #headers;
  #fetch;
  #timeoutMs;
  #maxAttempts;

  /**
   * @param {object} options
   * @param {string | URL} options.baseUrl where the service is, path prefix included
   * @param {string} [options.apiKey] one of the service's API_KEYS
   * @param {number} [options.timeoutMs] for a whole call: all attempts and the waits between them
   * @param {number} [options.maxAttempts] how often one caption is asked for at most
   * @param {typeof globalThis.fetch} [options.fetch] for a proxy, or a pool of connections of your own
   */
  constructor({ baseUrl, apiKey, timeoutMs = 30_000, maxAttempts = 10, fetch = globalThis.fetch }) {
    if (!(timeoutMs > 0 && timeoutMs <= MAX_TIMEOUT_MS)) throw new RangeError(`timeoutMs: ${timeoutMs}`);
    if (!(maxAttempts >= 1)) throw new RangeError(`maxAttempts: ${maxAttempts}`);
    this.#url = new URL("local-caption", String(baseUrl).replace(/\/*$/, "/"));
    if (!/^https?:$/.test(this.#url.protocol)) throw new TypeError(`baseUrl: ${baseUrl}`);
    this.#headers = new Headers(apiKey ? { authorization: `Bearer ${apiKey}` } : {});
    this.#fetch = fetch;
    this.#timeoutMs = timeoutMs;
    this.#maxAttempts = maxAttempts;
  }

  /**
   * Caption one picture; ask again, within the deadline, for as long as that may help.
   *
   * @param {Picture} picture
   * @param {CaptionOptions} [options]
   * @returns {Promise<Caption>}
   * @throws {CaptionError} or, once `signal` is aborted, its reason
   */
  async caption(picture, options = {}) {
    const request = this.#request(picture, options);
    const requestId = saneRequestId(options.requestId);
    const timeoutMs = Math.min(this.#timeoutMs, options.timeoutMs ?? Infinity);
    const deadline = performance.now() + timeoutMs;
    // One controller and one timer of our own: AbortSignal.any and .timeout leak, or are collected, in some Node 20s.
    const stop = new AbortController();
    const abort = () => stop.abort(options.signal?.reason);
    const late = () => stop.abort(new CaptionError("No caption came in time.", { code: "deadline_exceeded", requestId }));
    const timer = setTimeout(late, timeoutMs);
    options.signal?.addEventListener("abort", abort, { once: true });
    if (options.signal?.aborted) abort();
    try {
      for (let attempt = 1; ; attempt++) {
        stop.signal.throwIfAborted();
        try {
          return { ...(await this.#ask(request, requestId, deadline, stop.signal)), attempts: attempt };
        } catch (error) {
          if (!(error instanceof CaptionError && error.retryable)) throw error;
          // A picture's host that fails is given one more chance; the service, as many as there are.
          const maxAttempts = error.code === "image_fetch_failed" ? Math.min(2, this.#maxAttempts) : this.#maxAttempts;
          const delayMs = retryDelayMs(attempt, error.retryAfterMs);
          if (attempt >= maxAttempts || performance.now() + delayMs >= deadline) throw error;
          await sleep(delayMs, undefined, { signal: stop.signal }).catch(() => {}); // throwIfAborted has the reason
        }
      }
    } finally {
      clearTimeout(timer);
      options.signal?.removeEventListener("abort", abort);
    }
  }

  /**
   * @param {Picture} picture
   * @param {CaptionOptions} options
   */
  #request(picture, { prompt, maxNewTokens, numBeams }) {
    const fields = { prompt, maxNewTokens, numBeams };
    const headers = new Headers(this.#headers);
    if ("imageUrl" in picture) {
      headers.set("content-type", "application/json");
      return { url: this.#url, headers, body: JSON.stringify({ imageUrl: picture.imageUrl, ...fields }) };
    }
    const { image, contentType = image instanceof Blob ? image.type : "" } = picture;
    if (!(image instanceof Uint8Array || image instanceof Blob)) throw new TypeError("image: no Uint8Array or Blob");
    headers.set("content-type", contentType || "image/*"); // the service looks at the bytes
    const url = new URL(this.#url);
    for (const [name, value] of Object.entries(fields)) if (value != null) url.searchParams.set(name, String(value));
    return { url, headers, body: /** @type {BodyInit} */ (image) };
  }

  /**
   * Ask once.
   *
   * @param {{ url: URL, headers: Headers, body: BodyInit }} request
   * @param {string} requestId
   * @param {number} deadline
   * @param {AbortSignal} signal
   */
  async #ask({ url, headers, body }, requestId, deadline, signal) {
    headers.set("x-request-id", requestId);
    headers.set("x-request-timeout-ms", String(Math.max(1, Math.floor(deadline - performance.now()))));
    let response, text;
    try {
      response = await this.#fetch(url, { method: "POST", headers, body, signal, redirect: "manual" });
      text = await readText(response);
    } catch (cause) {
      if (signal.aborted) throw signal.reason;
      const message = "The connection to the caption service failed.";
      throw new CaptionError(message, { code: "connection_failed", requestId, cause });
    }
    const answer = parseObject(text);
    const cache = response.headers.get("x-cache");
    requestId = response.headers.get("x-request-id") ?? requestId;
    if (response.status === 200 && typeof answer.output === "string") {
      return { output: answer.output, requestId, timings: parseTimings(response.headers), cache };
    }
    const own = response.status >= 400 && typeof answer.error === "string" && typeof answer.code === "string";
    throw new CaptionError(own ? answer.error : `The answer, of status ${response.status}, is not the service's.`, {
      code: own ? answer.code : "invalid_answer",
      requestId,
      status: response.status,
      retryAfterMs: parseRetryAfter(response.headers),
    });
  }
}

/**
 * Return how long to wait after this attempt: never less than the service asked for, and never all callers alike.
 *
 * @param {number} attempt from 1 on
 * @param {number | null} [retryAfterMs]
 * @param {() => number} [random] from 0 to 1
 */
export function retryDelayMs(attempt, retryAfterMs = null, random = Math.random) {
  const backoff = Math.min(LONGEST_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** (attempt - 1));
  return retryAfterMs === null ? backoff * (0.5 + random() / 2) : retryAfterMs + backoff * random();
}

/**
 * Return the id if it is one that the service takes, else a new one.
 *
 * @param {string} [given]
 */
export function saneRequestId(given = "") {
  return /^[A-Za-z0-9._:/+=-]{1,128}$/.test(given) ? given : randomUUID();
}

/**
 * Return the wait in ms that Retry-After names, in seconds or as a date by the answering clock; null without one.
 *
 * @param {Headers} headers
 */
function parseRetryAfter(headers) {
  const value = headers.get("retry-after")?.trim() ?? "";
  if (/^\d+$/.test(value)) return Number(value) * 1000;
  const [until, now] = [Date.parse(value), Date.parse(headers.get("date") ?? "")];
  return /^[A-Z][a-z]+, /.test(value) && until ? Math.max(0, until - (now || Date.now())) : null;
}

/** @param {Headers} headers */
function parseTimings(headers) {
  const pairs = (headers.get("server-timing") ?? "").matchAll(/([\w-]+);dur=([\d.]+)/g);
  return Object.fromEntries(Array.from(pairs, ([, stage, ms]) => [stage, Number(ms)]));
}

/**
 * Read a body, but only so much of it as an answer of the service can be.
 *
 * @param {Response} response
 */
async function readText(response) {
  const decoder = new TextDecoder();
  let [text, size] = ["", 0];
  for await (const piece of response.body ?? []) {
    if ((size += piece.length) > MAX_ANSWER_BYTES) return ""; // leaving the loop cancels the rest
    text += decoder.decode(piece, { stream: true });
  }
  return text + decoder.decode();
}

/**
 * @param {string} text
 * @returns {Record<string, any>} an empty object, where the text is none
 */
function parseObject(text) {
  try {
    return Object(JSON.parse(text));
  } catch {
    return {};
  }
}
