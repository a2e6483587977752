/**
 * Return a body's text; an empty one in place of one that is too long.
 *
 * @param {Response} response
 */
export function readText(response: Response): Promise<string>;
/**
 * Yield a body's lines as they come, without their ends. A line that is too long ends the body.
 *
 * @param {Response} response
 */
export function readLines(response: Response): AsyncGenerator<string, void, unknown>;
/**
 * @param {string} text
 * @returns {Record<string, any>} an empty object, where the text is none
 */
export function parseObject(text: string): Record<string, any>;
/**
 * Make the error of an answer that holds no caption.
 *
 * @param {Record<string, any>} answer
 * @param {Response} response
 * @param {string} requestId
 */
export function toError(answer: Record<string, any>, { status, headers }: Response, requestId: string): CaptionError;
/**
 * Make the error of a line, about one picture of several, that holds no caption.
 *
 * @param {Record<string, any>} line
 * @param {string} requestId
 */
export function lineToError(line: Record<string, any>, requestId: string): CaptionError;
/**
 * Return the milliseconds by stage.
 *
 * @param {Headers} headers
 * @returns {Record<string, number>}
 */
export function parseTimings(headers: Headers): Record<string, number>;
/**
 * only with the option `details`
 */
export type Details = {
    /**
     * geometric mean of the tokens' probabilities
     */
    confidence?: number | undefined;
    /**
     * length of the caption in tokens
     */
    tokens?: number | undefined;
    /**
     * whether the caption ended, or was as long as it may be
     */
    finishReason?: "length" | "end" | undefined;
    model?: string | undefined;
    revision?: string | null | undefined;
    engine?: string | undefined;
};
export type Meta = {
    /**
     * the caption
     */
    output: string;
    /**
     * what the service's log calls the request
     */
    requestId: string;
    /**
     * milliseconds by stage
     */
    timings: Record<string, number>;
    /**
     * "hit" or "miss"; null where the service says nothing
     */
    cache: string | null;
    /**
     * how often the service was asked
     */
    attempts: number;
};
export type Caption = Meta & Details;
/**
 * what became of one picture; `index` is its place among all, from 0
 */
export type ManyResult = ({
    index: number;
    output: string;
    error?: undefined;
} & Details) | {
    index: number;
    output?: undefined;
    error: CaptionError;
};
import { CaptionError } from "./errors.js";
