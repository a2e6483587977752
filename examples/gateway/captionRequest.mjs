// @ts-check
/** From a caller's request to a picture and its options. */
import { Refusal } from "./refusals.mjs";

/** @typedef {import("node:http").IncomingMessage} Request */

/**
 * Read `{"imageUrl": …}` with the options beside it, or an image with the options in the query.
 *
 * @param {Request} req
 * @param {number} maxBodyBytes
 * @param {AbortSignal} signal
 */
export async function readCaptionRequest(req, maxBodyBytes, signal) {
  const contentType = req.headers["content-type"] ?? "";
  const isImage = /^image\//i.test(contentType);
  if (!isImage && !/^application\/json\b/i.test(contentType)) {
    throw new Refusal(415, "unsupported_content_type", "The body must be application/json or an image.");
  }
  const body = await readBody(req, maxBodyBytes, signal);
  const query = new URLSearchParams(req.url?.split("?")[1]);
  const { imageUrl, prompt, maxNewTokens, numBeams } = isImage ? Object.fromEntries(query) : parseJson(body);
  return { picture: isImage ? body : imageUrl, options: { prompt, maxNewTokens, numBeams } };
}

/**
 * @param {Request} req
 * @param {number} maxBytes
 * @param {AbortSignal} signal
 * @returns {Promise<Buffer<ArrayBuffer>>}
 */
function readBody(req, maxBytes, signal) {
  return new Promise((resolve, reject) => {
    const tooLarge = new Refusal(413, "body_too_large", `The body is over the limit of ${maxBytes} bytes.`);
    if (Number(req.headers["content-length"]) > maxBytes) throw tooLarge;
    /** @type {Buffer[]} */
    const pieces = [];
    let size = 0;
    req.on("data", (piece) => {
      size += piece.length;
      if (size <= maxBytes) pieces.push(piece);
      else reject(tooLarge);
    });
    req.on("end", () => resolve(Buffer.concat(pieces)));
    req.on("error", () => reject(new Refusal(400, "invalid_request", "The body ended early.")));
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

/**
 * @param {Buffer} body
 * @returns {Record<string, any>}
 */
function parseJson(body) {
  try {
    const fields = JSON.parse(body.toString());
    if (typeof fields.imageUrl === "string") return fields;
  } catch {} // the sentence fits both
  throw new Refusal(400, "invalid_json", 'Send an object such as {"imageUrl": "https://example.com/image.jpg"}.');
}
