// @ts-check
/** Whether and when to ask again. */
const FIRST_BACKOFF_MS = 200;
const LONGEST_BACKOFF_MS = 5_000;

/**
 * Tell whether to ask again after so many attempts. A picture's host that fails is given one more chance; the service,
 * as many as there are.
 *
 * @param {unknown} error
 * @param {number} attempt from 1 on
 * @param {number} maxAttempts
 */
export function askAgain(error, attempt, maxAttempts) {
  const { retryable, code } = Object(error);
  return retryable === true && attempt < (code === "image_fetch_failed" ? Math.min(2, maxAttempts) : maxAttempts);
}

/**
 * Return how long to wait after this attempt: never less than the service asked for, and never all callers alike.
 *
 * @param {number} attempt from 1 on
 * @param {number | null} [retryAfter] seconds
 * @param {() => number} [random] from 0 to 1
 */
export function retryDelayMs(attempt, retryAfter = null, random = Math.random) {
  const backoff = Math.min(LONGEST_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** (attempt - 1));
  return retryAfter === null ? backoff * (0.5 + random() / 2) : retryAfter * 1000 + backoff * random();
}
