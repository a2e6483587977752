// @ts-check
/** From any number of pictures to requests of a size that the service takes. */
import { readPicture } from "./request.js";

/**
 * @typedef {import("./request.js").Picture} Picture
 * @typedef {ReturnType<typeof readPicture>} Source a URL, or bytes
 * @typedef {{ index: number, source: Source }} Numbered a picture and its place among all
 */

const MOST_PICTURES = 64; // the service's limit
const MOST_BYTES = 4 * 1024 * 1024; // well under its smallest MAX_BODY_BYTES; a larger picture goes alone

/**
 * Yield the pictures in groups, each of which fits into one request: either URLs or bytes.
 *
 * @param {Iterable<Picture> | AsyncIterable<Picture>} pictures
 * @returns {AsyncGenerator<Numbered[], void>}
 */
export async function* inGroups(pictures) {
  const begun = { urls: new Group(), bytes: new Group() };
  let index = 0;
  for await (const picture of pictures) {
    const source = readPicture(picture, `pictures[${index}]`);
    const group = typeof source === "string" ? begun.urls : begun.bytes;
    if (!group.hasRoomFor(source)) yield group.take();
    group.add({ index, source });
    index += 1;
  }
  for (const group of [begun.urls, begun.bytes]) if (group.pictures.length) yield group.take();
}

class Group {
  /** @type {Numbered[]} */
  pictures = [];
  #bytes = 0;

  /** @param {Source} source */
  hasRoomFor(source) {
    const { length } = this.pictures;
    return length < MOST_PICTURES && (length === 0 || this.#bytes + sizeOf(source) <= MOST_BYTES);
  }

  /** @param {Numbered} picture */
  add(picture) {
    this.pictures.push(picture);
    this.#bytes += sizeOf(picture.source);
  }

  take() {
    const { pictures } = this;
    [this.pictures, this.#bytes] = [[], 0];
    return pictures;
  }
}

/** @param {Source} source */
function sizeOf(source) {
  return Object(source).size ?? Object(source).length; // a Blob's or a text's and bytes'
}

/**
 * Return the body that asks for a group's captions, with its type.
 *
 * @param {Numbered[]} group
 * @param {Record<string, string | number | boolean>} fields
 */
export function toBody(group, fields) {
  if (typeof group[0].source === "string") {
    const imageUrls = group.map(({ source }) => source);
    return { type: "application/json", body: JSON.stringify({ imageUrls, ...fields }) };
  }
  // RFC 7578, by hand: a fetch of another library may not know this realm's FormData, but it knows its Blob.
  const boundary = crypto.randomUUID();
  const parts = Object.entries(fields).map(([name, value]) => [`name="${name}"`, String(value)]);
  const images = group.map(({ source }) => ['name="image"; filename="image"', source]);
  const body = [...parts, ...images].flatMap(([name, content]) => [
    `--${boundary}\r\nContent-Disposition: form-data; ${name}\r\n\r\n`, content, "\r\n",
  ]); // prettier-ignore
  return { type: `multipart/form-data; boundary=${boundary}`, body: new Blob([...body, `--${boundary}--\r\n`]) };
}
