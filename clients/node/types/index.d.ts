export { CaptionClient } from "./client.js";
export { CaptionError } from "./errors.js";
export { saneRequestId } from "./request.js";
export type Picture = import("./request.js").Picture;
export type CaptionFields = import("./request.js").Fields;
export type CallOptions = import("./request.js").CallOptions;
export type ClientOptions = import("./client.js").ClientOptions;
export type Caption = import("./client.js").Caption;
export type ManyResult = import("./client.js").ManyResult;
