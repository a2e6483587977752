// @ts-check
/** Says that as many wait as may wait. */
export class QueueFull extends Error {}

/** Let some tasks run at once and some more wait for their turn, first come first served; turn the next one away. */
export class BoundedQueue {
  #running = 0;
  /** @type {Set<() => void>} */
  #waiting = new Set(); // keeps the order of arrival, and lets anyone leave

  /**
   * @param {number} maxRunning
   * @param {number} maxWaiting
   */
  constructor(maxRunning, maxWaiting) {
    this.maxRunning = maxRunning;
    this.maxWaiting = maxWaiting;
  }

  get running() {
    return this.#running;
  }

  get waiting() {
    return this.#waiting.size;
  }

  /**
   * Run a task once it is its turn. Who is aborted while waiting leaves the line; a task that runs sees to itself.
   *
   * @template T
   * @param {() => Promise<T>} task
   * @param {AbortSignal} signal
   * @returns {Promise<T>}
   * @throws {QueueFull} or, once `signal` is aborted, its reason
   */
  async run(task, signal) {
    signal.throwIfAborted();
    if (this.#running < this.maxRunning) this.#running += 1;
    else await this.#turn(signal);
    try {
      return await task();
    } finally {
      const [next] = this.#waiting;
      if (next) next(); // it takes over this place: the number of those that run stays
      else this.#running -= 1;
    }
  }

  /**
   * @param {AbortSignal} signal
   * @returns {Promise<void>}
   */
  #turn(signal) {
    if (this.#waiting.size >= this.maxWaiting) throw new QueueFull();
    return new Promise((resolve, reject) => {
      const next = () => {
        this.#waiting.delete(next);
        signal.removeEventListener("abort", leave);
        resolve();
      };
      const leave = () => {
        this.#waiting.delete(next);
        reject(signal.reason);
      };
      this.#waiting.add(next);
      signal.addEventListener("abort", leave, { once: true });
    });
  }
}
