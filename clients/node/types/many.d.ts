/**
 * Yield the pictures in groups, each of which fits into one request: either URLs or bytes.
 *
 * @param {Iterable<Picture> | AsyncIterable<Picture>} pictures
 * @returns {AsyncGenerator<Numbered[], void>}
 */
export function inGroups(pictures: Iterable<Picture> | AsyncIterable<Picture>): AsyncGenerator<Numbered[], void>;
/**
 * Return the body that asks for a group's captions, with its type.
 *
 * @param {Numbered[]} group
 * @param {Record<string, string | number | boolean>} fields
 */
export function toBody(group: Numbered[], fields: Record<string, string | number | boolean>): {
    type: string;
    body: string;
} | {
    type: string;
    body: Blob;
};
export type Picture = import("./request.js").Picture;
/**
 * a URL, or bytes
 */
export type Source = ReturnType<typeof readPicture>;
/**
 * a picture and its place among all
 */
export type Numbered = {
    index: number;
    source: Source;
};
import { readPicture } from "./request.js";
