// @ts-check
/** A service that answers as it is told, on loopback. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { after } from "node:test";
import { CaptionError } from "../src/index.js";

/**
 * @typedef {import("node:http").IncomingMessage & { body: string, bytes: Buffer, at: number }} Asked
 * @typedef {(res: import("node:http").ServerResponse, asked: Asked) => void} Turn
 */

/**
 * Start a service that takes one of these turns for each request, and the last one ever after.
 *
 * @param {...Turn} turns
 */
export async function start(...turns) {
  /** @type {Asked[]} */
  const asked = [];
  const server = createServer(async (req, res) => {
    const pieces = [];
    for await (const piece of req) pieces.push(piece);
    const bytes = Buffer.concat(pieces);
    const one = Object.assign(req, { body: String(bytes), bytes, at: performance.now() });
    asked.push(one);
    turns[Math.min(asked.length, turns.length) - 1](res, one);
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  after(() => server.closeAllConnections());
  after(() => server.close());
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  return { asked, server, baseUrl: `http://127.0.0.1:${port}` };
}

/**
 * @param {number} status
 * @param {unknown} body
 * @param {Record<string, string>} [headers]
 * @returns {Turn}
 */
export function json(status, body, headers = {}) {
  return (res) => void res.writeHead(status, { "Content-Type": "application/json", ...headers }).end(JSON.stringify(body));
}

/**
 * @param {number} status
 * @param {string} code
 * @param {Record<string, string>} [headers]
 */
export function failure(status, code, headers) {
  return json(status, { error: `The sentence of ${code}.`, code, requestId: "42" }, { "X-Request-Id": "42", ...headers });
}

/** @type {Turn} */
export const hangUp = (res) => void res.destroy();
/** @type {Turn} */
export const sayNothing = () => {};

/** @param {Promise<unknown>} promise @returns {Promise<CaptionError>} */
export async function failed(promise) {
  const error = await promise.then(() => assert.fail("It did not fail."), (reason) => reason);
  assert(error instanceof CaptionError, String(error));
  return error;
}
