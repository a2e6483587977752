/**
 * What ends a call early: its caller's signal, or a timer. One signal for both, since AbortSignal.any and
 * AbortSignal.timeout leak, or are collected, in some versions of Node 20.
 */
export class Stop {
    /** @param {AbortSignal} [callers] */
    constructor(callers?: AbortSignal);
    get signal(): AbortSignal;
    /**
     * Set the timer, in the place of the last one.
     *
     * @param {number} ms
     * @param {() => Error} reason
     */
    after(ms: number, reason: () => Error): void;
    pauseTimer(): void;
    /**
     * Wait; once this is stopped, reject with its reason.
     *
     * @param {number} ms
     * @returns {Promise<void>}
     */
    sleep(ms: number): Promise<void>;
    /** End what may still run for the call, and let go of the caller's signal. */
    end(): void;
    #private;
}
