/**
 * Tell whether to ask again after so many attempts. A picture's host that fails is given one more chance; the service,
 * as many as there are.
 *
 * @param {unknown} error
 * @param {number} attempt from 1 on
 * @param {number} maxAttempts
 */
export function askAgain(error: unknown, attempt: number, maxAttempts: number): boolean;
/**
 * Return how long to wait after this attempt: never less than the service asked for, and never all callers alike.
 *
 * @param {number} attempt from 1 on
 * @param {number | null} [retryAfter] seconds
 * @param {() => number} [random] from 0 to 1
 */
export function retryDelayMs(attempt: number, retryAfter?: number | null, random?: () => number): number;
