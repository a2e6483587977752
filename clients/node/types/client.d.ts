/** Asks one captioning service, as often as that may help. Use one client for many captions, also at once. */
export class CaptionClient {
    /**
     * @param {ClientOptions} options
     * @throws {CaptionError} of code invalid_argument
     */
    constructor({ baseUrl, apiKey, timeoutMs, maxAttempts, fetch }?: ClientOptions);
    /**
     * Caption one picture; ask again, within the deadline, for as long as that may help.
     *
     * @param {Picture} picture
     * @param {CaptionOptions} [options]
     * @returns {Promise<Caption>}
     * @throws {CaptionError} or, once `signal` is aborted, its reason
     */
    caption(picture: Picture, options?: CaptionOptions): Promise<Caption>;
    /**
     * Caption any number of pictures, 64 a request, and yield what became of each as soon as it is known, in whatever
     * order. What may be better later is asked again; one picture's failure does not harm the others. Leaving the loop
     * ends the request.
     *
     * @param {Iterable<Picture> | AsyncIterable<Picture>} pictures
     * @param {CaptionOptions} [options]
     * @returns {AsyncGenerator<ManyResult, void>}
     * @throws {CaptionError} when the service cannot be used; or, once `signal` is aborted, its reason
     */
    captionMany(pictures: Iterable<Picture> | AsyncIterable<Picture>, options?: CaptionOptions): AsyncGenerator<ManyResult, void>;
    #private;
}
export type Picture = import("./request.js").Picture;
export type CaptionOptions = import("./request.js").Fields & import("./request.js").CallOptions;
export type Numbered = import("./many.js").Numbered;
export type Request = {
    url: URL;
    headers: Record<string, string>;
    body: string | Uint8Array<ArrayBuffer> | Blob;
};
export type Caption = import("./answer.js").Caption;
export type ManyResult = import("./answer.js").ManyResult;
export type ClientOptions = {
    /**
     * where the service is, path prefix included
     */
    baseUrl: string | URL;
    /**
     * one of the service's API_KEYS
     */
    apiKey?: string | undefined;
    /**
     * for one caption, all attempts and the waits between them; 30,000 by default
     */
    timeoutMs?: number | undefined;
    /**
     * how often one caption is asked for at most; 10 by default
     */
    maxAttempts?: number | undefined;
    /**
     * for a proxy, or a pool of connections of your own
     */
    fetch?: typeof fetch | undefined;
};
