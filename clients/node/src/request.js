// @ts-check
/** From a caller's arguments to what is sent; what cannot be sent as it is meant is refused. */
import { invalidArgument } from "./errors.js";

/**
 * @typedef {string | URL | Uint8Array | ArrayBuffer | Blob} Picture
 *   an http:, https: or data: URL, or the picture itself (a Buffer is a Uint8Array, a File is a Blob)
 *
 * @typedef {object} Fields
 * @property {string} [prompt] text that the caption continues
 * @property {number} [maxNewTokens] longest caption, in tokens (a token is a word or a part of one)
 * @property {number} [numBeams] how many captions are followed at once to find the best; 1 is the fastest
 * @property {number} [noRepeatNgramSize] no sequence of so many tokens comes twice
 * @property {number} [repetitionPenalty] over 1: tokens that were used become less likely
 * @property {boolean} [details] answer confidence, tokens and the model's name as well
 * @property {number} [candidates] how many captions to answer, best first; at most numBeams
 *
 * @typedef {object} CallOptions
 * @property {string} [requestId] stands in the service's log; made when missing or not sane
 * @property {number} [timeoutMs] caption: for the whole call; captionMany: for each wait for the next picture
 * @property {AbortSignal} [signal] ends the call, which then rejects with the signal's reason
 */

const FIELDS = [
  "prompt", "maxNewTokens", "numBeams", "noRepeatNgramSize", "repetitionPenalty", "details", "candidates",
]; // prettier-ignore
const CALL_OPTIONS = ["requestId", "timeoutMs", "signal"];
const LONGEST_TIMEOUT_MS = 2 ** 31 - 1; // a longer timer fires at once

/**
 * Sort a call's options into what is sent and what steers the call.
 *
 * @param {Fields & CallOptions} options
 * @returns {{ fields: Record<string, string | number | boolean> } & CallOptions}
 */
export function readOptions(options) {
  if (tagOf(options) !== "Object") throw invalidArgument(`options: expected an object, not ${describe(options)}.`);
  const { requestId, timeoutMs, signal, ...others } = options;
  if (timeoutMs !== undefined) checkTimeout(timeoutMs);
  if (signal !== undefined && tagOf(signal) !== "AbortSignal") {
    throw invalidArgument(`signal: expected an AbortSignal, not ${describe(signal)}.`);
  }
  const fields = Object.fromEntries(Object.entries(others).filter(([, value]) => value !== undefined && value !== null));
  for (const [name, value] of Object.entries(fields)) checkField(name, value);
  return { fields, requestId, timeoutMs, signal };
}

/**
 * @param {string} name
 * @param {unknown} value
 */
function checkField(name, value) {
  if (!FIELDS.includes(name)) {
    throw invalidArgument(`options: there is no ${name}; there are ${[...FIELDS, ...CALL_OPTIONS].join(", ")}.`);
  }
  // JSON knows no NaN and no Infinity; whether a value is in range, the service says.
  if (!(["string", "boolean"].includes(typeof value) || Number.isFinite(value))) {
    throw invalidArgument(`${name}: ${describe(value)} cannot be sent.`);
  }
}

/** @param {unknown} timeoutMs */
export function checkTimeout(timeoutMs) {
  if (!(typeof timeoutMs === "number" && timeoutMs > 0 && timeoutMs <= LONGEST_TIMEOUT_MS)) {
    throw invalidArgument(
      `timeoutMs: expected milliseconds from 1 to ${LONGEST_TIMEOUT_MS}, not ${describe(timeoutMs)}.`,
    );
  }
}

/**
 * Return a picture's URL, or its bytes as a body.
 *
 * @param {unknown} picture
 * @param {string} [name] what a refusal calls it
 * @returns {string | Uint8Array<ArrayBuffer> | Blob}
 */
export function readPicture(picture, name = "picture") {
  if (typeof picture === "string") return picture;
  const tag = tagOf(picture);
  if (tag === "URL") return String(picture);
  if (tag === "Blob" || tag === "File") return /** @type {Blob} */ (picture);
  if (tag === "Uint8Array") return /** @type {Uint8Array<ArrayBuffer>} */ (picture);
  if (tag === "ArrayBuffer") return new Uint8Array(/** @type {ArrayBuffer} */ (picture));
  throw invalidArgument(`${name}: expected a URL, a Uint8Array, an ArrayBuffer or a Blob, not ${describe(picture)}.`);
}

/** @param {unknown} pictures */
export function checkPictures(pictures) {
  const { [Symbol.iterator]: iterator, [Symbol.asyncIterator]: asyncIterator } = Object(pictures);
  // A string and bytes can be gone through, too, but are one picture.
  if (typeof pictures === "string" || ArrayBuffer.isView(pictures) || !(iterator ?? asyncIterator)) {
    throw invalidArgument(`pictures: expected a list of pictures, not ${describe(pictures)}.`);
  }
}

/**
 * Return the id if it is one that the service takes, else a new one.
 *
 * @param {unknown} [given]
 */
export function saneRequestId(given) {
  return typeof given === "string" && /^[A-Za-z0-9._:/+=-]{1,128}$/.test(given) ? given : crypto.randomUUID();
}

/**
 * Return what kind of object a value is. `instanceof` fails for one of another realm, as test runners make them.
 *
 * @param {unknown} value
 */
function tagOf(value) {
  return Object.prototype.toString.call(value).slice(8, -1);
}

/** @param {unknown} value */
export function describe(value) {
  if (value === null || ["undefined", "number", "boolean", "bigint"].includes(typeof value)) return String(value);
  return typeof value === "string" ? `the string "${value.slice(0, 50)}"` : `a value of type ${tagOf(value)}`;
}
