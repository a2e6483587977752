// @ts-check
/**
 * What ends a call early: its caller's signal, or a timer. One signal for both, since AbortSignal.any and
 * AbortSignal.timeout leak, or are collected, in some versions of Node 20.
 */
export class Stop {
  #controller = new AbortController();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {AbortSignal | undefined} */
  #callers;
  #follow = () => this.#controller.abort(this.#callers?.reason);

  /** @param {AbortSignal} [callers] */
  constructor(callers) {
    this.#callers = callers;
    callers?.addEventListener("abort", this.#follow, { once: true });
    if (callers?.aborted) this.#follow();
  }

  get signal() {
    return this.#controller.signal;
  }

  /**
   * Set the timer, in the place of the last one.
   *
   * @param {number} ms
   * @param {() => Error} reason
   */
  after(ms, reason) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#controller.abort(reason()), ms);
  }

  pauseTimer() {
    clearTimeout(this.#timer);
  }

  /**
   * Wait; once this is stopped, reject with its reason.
   *
   * @param {number} ms
   * @returns {Promise<void>}
   */
  sleep(ms) {
    return new Promise((resolve, reject) => {
      const { signal } = this;
      const leave = () => {
        clearTimeout(timer);
        reject(signal.reason);
      };
      const timer = setTimeout(() => {
        signal.removeEventListener("abort", leave);
        resolve();
      }, ms);
      signal.addEventListener("abort", leave, { once: true });
      if (signal.aborted) leave();
    });
  }

  /** End what may still run for the call, and let go of the caller's signal. */
  end() {
    clearTimeout(this.#timer);
    this.#callers?.removeEventListener("abort", this.#follow);
    this.#controller.abort();
  }
}
