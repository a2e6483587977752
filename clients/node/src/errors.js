// @ts-check
/** The one error of this package. */

/**
 * @typedef {object} ErrorDetails
 * @property {string} code
 * @property {string | null} [requestId]
 * @property {number | null} [status]
 * @property {number | null} [retryAfter]
 * @property {unknown} [cause]
 */

// What the service may answer differently a little later. A picture's line in a bulk answer has no status.
const TEMPORARY_CODES = new Set([
  "connection_failed",
  "overloaded",
  "model_loading",
  "shutting_down",
  "image_fetch_failed",
]);
const TEMPORARY_STATUSES = new Set([429, 502, 503]);

/** Says why there is no caption, in the service's own words where it gave some. */
export class CaptionError extends Error {
  /**
   * @param {string} message
   * @param {ErrorDetails} details
   */
  constructor(message, { code, requestId = null, status = null, retryAfter = null, cause }) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = "CaptionError";
    /** The service's code, or connection_failed, invalid_answer, deadline_exceeded or invalid_argument. */
    this.code = code;
    /** The answer's HTTP status; null where no answer came, and for one picture of a bulk request. */
    this.status = status;
    /** What the service's log calls this request; null where nothing was sent. */
    this.requestId = requestId;
    /** The seconds that the service asked to wait before the next attempt, if it did. */
    this.retryAfter = retryAfter;
    /** Whether the same request may well succeed a little later. */
    this.retryable = TEMPORARY_CODES.has(code) || TEMPORARY_STATUSES.has(status ?? 0);
  }
}

/**
 * Refuse an argument: nothing was sent.
 *
 * @param {string} message
 */
export function invalidArgument(message) {
  return new CaptionError(message, { code: "invalid_argument" });
}

/**
 * Say that the connection failed, and why: fetch itself says only "fetch failed".
 *
 * @param {unknown} cause
 * @param {string} requestId
 */
export function connectionFailed(cause, requestId) {
  const message = `The connection to the caption service failed: ${innermostMessage(cause)}.`;
  return new CaptionError(message, { code: "connection_failed", requestId, cause });
}

/**
 * Follow the causes to the first one. Where several addresses were tried, each failed for a reason of its own.
 *
 * @param {unknown} error
 * @returns {string}
 */
function innermostMessage(error) {
  const { cause, errors, message, code } = Object(error);
  if (cause) return innermostMessage(cause);
  if (Array.isArray(errors) && errors.length) return errors.map(innermostMessage).join("; ");
  return message || code || String(error);
}
