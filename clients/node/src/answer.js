// @ts-check
/** From what the service answers to captions and errors; only so much is read as an answer of the service can be. */
import { CaptionError } from "./errors.js";

/**
 * @typedef {object} Details only with the option `details`
 * @property {number} [confidence] geometric mean of the tokens' probabilities
 * @property {number} [tokens] length of the caption in tokens
 * @property {"end" | "length"} [finishReason] whether the caption ended, or was as long as it may be
 * @property {string} [model]
 * @property {string | null} [revision]
 * @property {string} [engine]
 *
 * @typedef {object} Meta
 * @property {string} output the caption
 * @property {string} requestId what the service's log calls the request
 * @property {Record<string, number>} timings milliseconds by stage
 * @property {string | null} cache "hit" or "miss"; null where the service says nothing
 * @property {number} attempts how often the service was asked
 *
 * @typedef {Meta & Details} Caption
 *
 * @typedef {({ index: number, output: string, error?: undefined } & Details) |
 *   { index: number, output?: undefined, error: CaptionError }} ManyResult
 *   what became of one picture; `index` is its place among all, from 0
 */

const MAX_TEXT_LENGTH = 64 * 1024;

/**
 * Return a body's text; an empty one in place of one that is too long.
 *
 * @param {Response} response
 */
export async function readText(response) {
  let text = "";
  for await (const piece of decode(response)) {
    text += piece;
    if (text.length > MAX_TEXT_LENGTH) return ""; // leaving the loop cancels the rest
  }
  return text;
}

/**
 * Yield a body's lines as they come, without their ends. A line that is too long ends the body.
 *
 * @param {Response} response
 */
export async function* readLines(response) {
  let rest = "";
  for await (const piece of decode(response)) {
    const lines = (rest + piece).split("\n");
    rest = lines.pop() ?? "";
    yield* lines;
    if (rest.length > MAX_TEXT_LENGTH) return;
  }
  if (rest) yield rest;
}

/** @param {Response} response */
async function* decode(response) {
  const decoder = new TextDecoder();
  for await (const bytes of response.body ?? []) yield decoder.decode(bytes, { stream: true });
  yield decoder.decode();
}

/**
 * @param {string} text
 * @returns {Record<string, any>} an empty object, where the text is none
 */
export function parseObject(text) {
  try {
    return Object(JSON.parse(text));
  } catch {
    return {};
  }
}

/**
 * Make the error of an answer that holds no caption.
 *
 * @param {Record<string, any>} answer
 * @param {Response} response
 * @param {string} requestId
 */
export function toError(answer, { status, headers }, requestId) {
  const details = { requestId, status, retryAfter: parseRetryAfter(headers) };
  const { error: message, code } = isError(answer) && status >= 400 ? answer : notTheServices(status);
  return new CaptionError(message, { code, ...details });
}

/**
 * Make the error of a line, about one picture of several, that holds no caption.
 *
 * @param {Record<string, any>} line
 * @param {string} requestId
 */
export function lineToError(line, requestId) {
  const { error: message, code } = isError(line) ? line : notTheServices(200);
  return new CaptionError(message, { code, requestId });
}

/** @param {Record<string, any>} answer */
function isError({ error, code }) {
  return typeof error === "string" && typeof code === "string";
}

/** @param {number} status */
function notTheServices(status) {
  return { error: `The answer, of status ${status}, is not the caption service's.`, code: "invalid_answer" };
}

/**
 * Return the seconds that Retry-After names, as such or as a date by the answering clock; null without one.
 *
 * @param {Headers} headers
 */
function parseRetryAfter(headers) {
  const value = headers.get("retry-after")?.trim() ?? "";
  if (/^\d+$/.test(value)) return Number(value);
  const [until, now] = [Date.parse(value), Date.parse(headers.get("date") ?? "")];
  return /^[A-Z][a-z]+, /.test(value) && until ? Math.max(0, until - (now || Date.now())) / 1000 : null;
}

/**
 * Return the milliseconds by stage.
 *
 * @param {Headers} headers
 * @returns {Record<string, number>}
 */
export function parseTimings(headers) {
  const pairs = (headers.get("server-timing") ?? "").matchAll(/([\w-]+);dur=([\d.]+)/g);
  return Object.fromEntries(Array.from(pairs, ([, stage, ms]) => [stage, Number(ms)]));
}
