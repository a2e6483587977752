// @ts-check
import { lineToError, parseObject, parseTimings, readLines, readText, toError } from "./answer.js";
import { CaptionError, connectionFailed, invalidArgument } from "./errors.js";
import { inGroups, toBody } from "./many.js";
import { checkPictures, checkTimeout, describe, readOptions, readPicture, saneRequestId } from "./request.js";
import { askAgain, retryDelayMs } from "./retry.js";
import { Stop } from "./stop.js";

/**
 * @typedef {import("./request.js").Picture} Picture
 * @typedef {import("./request.js").Fields & import("./request.js").CallOptions} CaptionOptions
 * @typedef {import("./many.js").Numbered} Numbered
 * @typedef {{ url: URL, headers: Record<string, string>, body: string | Uint8Array<ArrayBuffer> | Blob }} Request
 * @typedef {import("./answer.js").Caption} Caption
 * @typedef {import("./answer.js").ManyResult} ManyResult
 *
 * @typedef {object} ClientOptions
 * @property {string | URL} baseUrl where the service is, path prefix included
 * @property {string} [apiKey] one of the service's API_KEYS
 * @property {number} [timeoutMs] for one caption, all attempts and the waits between them; 30,000 by default
 * @property {number} [maxAttempts] how often one caption is asked for at most; 10 by default
 * @property {typeof globalThis.fetch} [fetch] for a proxy, or a pool of connections of your own
 */

const LONGEST_SILENCE_MS = 60_000;

/** Asks one captioning service, as often as that may help. Use one client for many captions, also at once. */
export class CaptionClient {
  #baseUrl;
  #headers;
  #fetch;
  #timeoutMs;
  #maxAttempts;

  /**
   * @param {ClientOptions} options
   * @throws {CaptionError} of code invalid_argument
   */
  constructor({ baseUrl, apiKey, timeoutMs = 30_000, maxAttempts = 10, fetch = globalThis.fetch } = /** @type {any} */ ({})) {
    if (!/^https?:\/\/./.test(String(baseUrl)) || !URL.canParse(String(baseUrl))) {
      throw invalidArgument(`baseUrl: expected a URL such as http://localhost:8000, not ${describe(baseUrl)}.`);
    }
    if (apiKey !== undefined && (typeof apiKey !== "string" || !/^[\x21-\x7e]*$/.test(apiKey))) {
      throw invalidArgument("apiKey: expected ASCII without blanks.");
    }
    checkTimeout(timeoutMs);
    if (!(Number.isInteger(maxAttempts) && maxAttempts >= 1)) {
      throw invalidArgument(`maxAttempts: expected a whole number from 1 on, not ${describe(maxAttempts)}.`);
    }
    if (typeof fetch !== "function") throw invalidArgument(`fetch: expected a function, not ${describe(fetch)}.`);
    this.#baseUrl = String(baseUrl).replace(/\/*$/, "/");
    this.#headers = /** @type {Record<string, string>} */ (apiKey ? { authorization: `Bearer ${apiKey}` } : {});
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
    const { fields, timeoutMs = this.#timeoutMs, signal, ...others } = readOptions(options);
    const ask = this.#requestFor(readPicture(picture), fields);
    const requestId = saneRequestId(others.requestId);
    const deadline = performance.now() + Math.min(timeoutMs, this.#timeoutMs);
    const left = () => deadline - performance.now();
    const stop = new Stop(signal);
    stop.after(left(), () => new CaptionError("No caption came in time.", { code: "deadline_exceeded", requestId }));
    try {
      for (let attempt = 1; ; attempt++) {
        try {
          ask.headers["x-request-timeout-ms"] = String(Math.max(1, Math.floor(left())));
          return { ...(await this.#ask(ask, requestId, stop)), attempts: attempt };
        } catch (error) {
          if (!askAgain(error, attempt, this.#maxAttempts)) throw error;
          const delayMs = retryDelayMs(attempt, Object(error).retryAfter);
          if (delayMs >= left()) throw error;
          await stop.sleep(delayMs);
        }
      }
    } finally {
      stop.end();
    }
  }

  /**
   * Caption any number of pictures, 64 a request, and yield what became of each as soon as it is known, in whatever
   * order. What may be better later is asked again; one picture's failure does not harm the others. Leaving the loop
   * ends the request.
   *
   * @param {Iterable<Picture> | AsyncIterable<Picture>} pictures
   * @param {CaptionOptions} [options]
   * @returns {AsyncGenerator<ManyResult, void>}
   * @throws {CaptionError} when the service cannot be used; or, once `signal` is aborted, its reason
   */
  async *captionMany(pictures, options = {}) {
    const { fields, timeoutMs = LONGEST_SILENCE_MS, signal, ...others } = readOptions(options);
    checkPictures(pictures);
    const requestId = saneRequestId(others.requestId);
    const stop = new Stop(signal);
    const late = () => new CaptionError("No caption came in time.", { code: "deadline_exceeded", requestId });
    try {
      for await (const group of inGroups(pictures)) {
        const left = new Map(group.map((picture) => [picture.index, picture]));
        for (let attempt = 1; left.size; attempt++) {
          /** @type {unknown} */
          let failure = null;
          stop.after(timeoutMs, late);
          try {
            for await (const result of this.#askMany([...left.values()], fields, requestId, stop)) {
              stop.pauseTimer(); // whoever takes the results may take time
              if (result.error && askAgain(result.error, attempt, this.#maxAttempts)) failure = result.error;
              else if (left.delete(result.index)) yield result;
              stop.after(timeoutMs, late);
            }
          } catch (error) {
            if (!askAgain(error, attempt, this.#maxAttempts)) throw error;
            failure = error;
          }
          stop.pauseTimer();
          if (left.size) await stop.sleep(retryDelayMs(attempt, Object(failure).retryAfter));
        }
      }
    } finally {
      stop.end();
    }
  }

  /**
   * @param {ReturnType<typeof readPicture>} picture
   * @param {Record<string, string | number | boolean>} fields
   * @returns {Request}
   */
  #requestFor(picture, fields) {
    const url = new URL("local-caption", this.#baseUrl);
    if (typeof picture === "string") {
      const headers = { ...this.#headers, "content-type": "application/json" };
      return { url, headers, body: JSON.stringify({ imageUrl: picture, ...fields }) };
    }
    for (const [name, value] of Object.entries(fields)) url.searchParams.set(name, String(value));
    // Which kind of image it is, the service sees by its bytes.
    return { url, headers: { ...this.#headers, "content-type": "image/*" }, body: picture };
  }

  /**
   * Ask for one caption, once.
   *
   * @param {Request} request
   * @param {string} requestId
   * @param {Stop} stop
   */
  async #ask(request, requestId, stop) {
    const response = await this.#send(request, requestId, stop);
    const answer = parseObject(await overTheWire(readText(response), requestId, stop));
    requestId = response.headers.get("x-request-id") ?? requestId;
    if (response.status !== 200 || typeof answer.output !== "string") throw toError(answer, response, requestId);
    const meta = { requestId, timings: parseTimings(response.headers), cache: response.headers.get("x-cache") };
    return /** @type {Omit<Caption, "attempts">} */ ({ ...answer, ...meta });
  }

  /**
   * Ask for several captions, once; yield what is answered, until the answer ends.
   *
   * @param {Numbered[]} pictures
   * @param {Record<string, string | number | boolean>} fields
   * @param {string} requestId
   * @param {Stop} stop
   * @returns {AsyncGenerator<ManyResult, void>}
   */
  async *#askMany(pictures, fields, requestId, stop) {
    const { type, body } = toBody(pictures, fields);
    const headers = { ...this.#headers, "content-type": type, accept: "application/x-ndjson" };
    const url = new URL("local-captions", this.#baseUrl);
    const response = await this.#send({ url, headers, body }, requestId, stop);
    requestId = response.headers.get("x-request-id") ?? requestId;
    if (response.status !== 200) {
      throw toError(parseObject(await overTheWire(readText(response), requestId, stop)), response, requestId);
    }
    const lines = readLines(response);
    try {
      for (let answered = 0; answered < pictures.length; answered++) {
        const { value: line, done } = await overTheWire(lines.next(), requestId, stop);
        if (done) throw connectionFailed(new Error("the answer ended early"), requestId);
        const { index: place, ...answer } = parseObject(line);
        const picture = pictures[place];
        if (!picture) throw lineToError({}, requestId);
        const index = picture.index;
        if (typeof answer.output === "string") yield /** @type {ManyResult} */ ({ index, ...answer });
        else yield { index, error: lineToError(answer, requestId) };
      }
    } finally {
      await lines.return().catch(() => {}); // what is left of the answer is not read
    }
  }

  /**
   * @param {Request} request
   * @param {string} requestId
   * @param {Stop} stop
   */
  #send({ url, headers, body }, requestId, stop) {
    stop.signal.throwIfAborted();
    const init = { method: "POST", headers: { ...headers, "x-request-id": requestId }, body, signal: stop.signal };
    return overTheWire(this.#fetch.call(undefined, url, { ...init, redirect: "manual" }), requestId, stop);
  }
}

/**
 * Await one step of an exchange. What breaks it is the connection, unless the call was stopped.
 *
 * @template T
 * @param {Promise<T>} step
 * @param {string} requestId
 * @param {Stop} stop
 * @returns {Promise<T>}
 */
async function overTheWire(step, requestId, stop) {
  try {
    return await step;
  } catch (cause) {
    if (stop.signal.aborted) throw stop.signal.reason;
    throw connectionFailed(cause, requestId);
  }
}
