// @ts-check
/** From any number of pictures to requests of a size that the service takes. */
import { readPicture } from "./request.js";

/**
 * @typedef {import("./request.js").Picture} Picture
 * @typedef {{ index: number, imageUrl: string }} Numbered a picture and its place among all
 */

const MOST_PICTURES = 64; // the service's limit
const MOST_CHARACTERS = 4 * 1024 * 1024; // well under its smallest MAX_BODY_BYTES; a larger picture goes alone

/**
 * Yield the pictures in groups, each of which fits into one request.
 *
 * @param {Iterable<Picture> | AsyncIterable<Picture>} pictures
 * @returns {AsyncGenerator<Numbered[], void>}
 */
export async function* inGroups(pictures) {
  /** @type {Numbered[]} */
  let group = [];
  let [index, characters] = [0, 0];
  for await (const picture of pictures) {
    const imageUrl = await toUrl(readPicture(picture, `pictures[${index}]`));
    if (group.length === MOST_PICTURES || (group.length && characters + imageUrl.length > MOST_CHARACTERS)) {
      yield group;
      [group, characters] = [[], 0];
    }
    group.push({ index, imageUrl });
    index += 1;
    characters += imageUrl.length;
  }
  if (group.length) yield group;
}

/** @param {string | Uint8Array<ArrayBuffer> | Blob} picture */
async function toUrl(picture) {
  if (typeof picture === "string") return picture;
  const bytes = picture instanceof Uint8Array ? picture : new Uint8Array(await picture.arrayBuffer());
  let binary = "";
  // All at once would be more arguments than a call may have.
  for (let at = 0; at < bytes.length; at += 32_768) binary += String.fromCharCode(...bytes.subarray(at, at + 32_768));
  return `data:image/*;base64,${btoa(binary)}`;
}
