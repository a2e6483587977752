/**
 * Refuse an argument: nothing was sent.
 *
 * @param {string} message
 */
export function invalidArgument(message: string): CaptionError;
/**
 * Say that the connection failed, and why: fetch itself says only "fetch failed".
 *
 * @param {unknown} cause
 * @param {string} requestId
 */
export function connectionFailed(cause: unknown, requestId: string): CaptionError;
/** Says why there is no caption, in the service's own words where it gave some. */
export class CaptionError extends Error {
    /**
     * @param {string} message
     * @param {ErrorDetails} details
     */
    constructor(message: string, { code, requestId, status, retryAfter, cause }: ErrorDetails);
    /** The service's code, or connection_failed, invalid_answer, deadline_exceeded or invalid_argument. */
    code: string;
    /** The answer's HTTP status; null where no answer came, and for one picture of a bulk request. */
    status: number | null;
    /** What the service's log calls this request; null where nothing was sent. */
    requestId: string | null;
    /** The seconds that the service asked to wait before the next attempt, if it did. */
    retryAfter: number | null;
    /** Whether the same request may well succeed a little later. */
    retryable: boolean;
}
export type ErrorDetails = {
    code: string;
    requestId?: string | null | undefined;
    status?: number | null | undefined;
    retryAfter?: number | null | undefined;
    cause?: unknown;
};
