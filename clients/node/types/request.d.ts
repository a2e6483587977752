/**
 * Sort a call's options into what is sent and what steers the call.
 *
 * @param {Fields & CallOptions} options
 * @returns {{ fields: Record<string, string | number | boolean> } & CallOptions}
 */
export function readOptions(options: Fields & CallOptions): {
    fields: Record<string, string | number | boolean>;
} & CallOptions;
/** @param {unknown} timeoutMs */
export function checkTimeout(timeoutMs: unknown): void;
/**
 * Return a picture's URL, or its bytes as a body.
 *
 * @param {unknown} picture
 * @param {string} [name] what a refusal calls it
 * @returns {string | Uint8Array<ArrayBuffer> | Blob}
 */
export function readPicture(picture: unknown, name?: string): string | Uint8Array<ArrayBuffer> | Blob;
/** @param {unknown} pictures */
export function checkPictures(pictures: unknown): void;
/**
 * Return the id if it is one that the service takes, else a new one.
 *
 * @param {unknown} [given]
 */
export function saneRequestId(given?: unknown): string;
/** @param {unknown} value */
export function describe(value: unknown): string;
/**
 * an http:, https: or data: URL, or the picture itself (a Buffer is a Uint8Array, a File is a Blob)
 */
export type Picture = string | URL | Uint8Array | ArrayBuffer | Blob;
export type Fields = {
    /**
     * text that the caption continues
     */
    prompt?: string | undefined;
    /**
     * longest caption, in tokens (a token is a word or a part of one)
     */
    maxNewTokens?: number | undefined;
    /**
     * how many captions are followed at once to find the best; 1 is the fastest
     */
    numBeams?: number | undefined;
    /**
     * no sequence of so many tokens comes twice
     */
    noRepeatNgramSize?: number | undefined;
    /**
     * over 1: tokens that were used become less likely
     */
    repetitionPenalty?: number | undefined;
    /**
     * answer confidence, tokens and the model's name as well
     */
    details?: boolean | undefined;
    /**
     * how many captions to answer, best first; at most numBeams
     */
    candidates?: number | undefined;
};
export type CallOptions = {
    /**
     * stands in the service's log; made when missing or not sane
     */
    requestId?: string | undefined;
    /**
     * caption: for the whole call; captionMany: for each wait for the next picture
     */
    timeoutMs?: number | undefined;
    /**
     * ends the call, which then rejects with the signal's reason
     */
    signal?: AbortSignal | undefined;
};
