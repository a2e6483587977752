/**
 * Yield the pictures in groups, each of which fits into one request.
 *
 * @param {Iterable<Picture> | AsyncIterable<Picture>} pictures
 * @returns {AsyncGenerator<Numbered[], void>}
 */
export function inGroups(pictures: Iterable<Picture> | AsyncIterable<Picture>): AsyncGenerator<Numbered[], void>;
export type Picture = import("./request.js").Picture;
/**
 * a picture and its place among all
 */
export type Numbered = {
    index: number;
    imageUrl: string;
};
