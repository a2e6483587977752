// @ts-check
/** What the gateway answers its callers when there is no caption. */
import { CaptionError } from "smartscan-captions";
import { QueueFull } from "./boundedQueue.mjs";

/** An answer that is not a caption. */
export class Refusal extends Error {
  /**
   * @param {number} status
   * @param {string} code
   * @param {string} message
   * @param {number | null} [retryAfter] seconds
   */
  constructor(status, code, message, retryAfter = null) {
    super(message);
    this.status = status;
    this.code = code;
    /** In whole seconds, of which there is at least one; only for what may be better later. */
    this.retryAfter = status < 500 ? null : Math.max(1, Math.ceil(retryAfter ?? 0));
  }
}

/**
 * Say whose trouble it is: 4xx is the caller's, 5xx is not.
 *
 * @param {unknown} error
 * @returns {Refusal}
 */
export function toRefusal(error) {
  if (error instanceof Refusal) return error;
  if (error instanceof QueueFull) return new Refusal(503, "overloaded", "Too many captions are waiting; try again.");
  if (!(error instanceof CaptionError)) return new Refusal(500, "internal_error", "Something went wrong.");
  const { status, code, message, retryAfter } = error;
  if (code === "invalid_argument") return new Refusal(400, "invalid_parameter", message);
  // What the service finds wrong with a picture or an option is for our caller to mend.
  if (status && [400, 413, 415, 422].includes(status)) return new Refusal(status, code, message);
  // It is this gateway that asks too much, not our caller.
  if (status === 429 || status === 503) return new Refusal(503, code, message, retryAfter);
  if (status === 504 || code === "deadline_exceeded") return new Refusal(504, code, message, retryAfter);
  if (status === 502 || status === null) return new Refusal(502, code, message, retryAfter);
  // The rest, a wrong key or address of the service above all, is between the gateway and the service.
  return new Refusal(502, "caption_service_failed", "The caption service could not be used; the gateway's log says why.");
}
