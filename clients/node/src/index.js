// @ts-check
/**
 * A client of the SmartScan captioning service, for Node 20 or newer. It uses web standards only.
 *
 *     const client = new CaptionClient({ baseUrl: "http://localhost:8000" });
 *     const { output } = await client.caption("https://example.com/image.jpg");
 */
export { CaptionClient } from "./client.js";
export { CaptionError } from "./errors.js";
export { saneRequestId } from "./request.js";

/**
 * @typedef {import("./request.js").Picture} Picture
 * @typedef {import("./request.js").Fields} CaptionFields
 * @typedef {import("./request.js").CallOptions} CallOptions
 * @typedef {import("./client.js").ClientOptions} ClientOptions
 * @typedef {import("./client.js").Caption} Caption
 * @typedef {import("./client.js").ManyResult} ManyResult
 */
