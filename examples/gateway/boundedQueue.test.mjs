// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as settle } from "node:timers/promises";
import { BoundedQueue, QueueFull } from "./boundedQueue.mjs";

const never = new AbortController().signal;

/** A task that runs until it is told to end. */
function task() {
  let started = false;
  /** @type {(value?: unknown) => void} */
  let end = () => {};
  const ended = new Promise((resolve) => (end = resolve));
  return { run: async () => ((started = true), await ended), end, get started() { return started; } };
}

test("as many run as may, the rest wait in the order of their arrival", async () => {
  const queue = new BoundedQueue(2, 2);
  const tasks = [task(), task(), task(), task()];
  const results = tasks.map((one) => queue.run(one.run, never));
  await settle();
  assert.deepEqual(tasks.map((one) => one.started), [true, true, false, false]);
  assert.deepEqual([queue.running, queue.waiting], [2, 2]);
  tasks[1].end();
  await settle();
  assert.deepEqual(tasks.map((one) => one.started), [true, true, true, false]);
  for (const one of tasks) one.end();
  await Promise.all(results);
  assert.deepEqual([queue.running, queue.waiting], [0, 0]);
});

test("when as many wait as may, the next is turned away at once", async () => {
  const queue = new BoundedQueue(1, 1);
  const [first, second] = [task(), task()];
  const results = [queue.run(first.run, never), queue.run(second.run, never)];
  await assert.rejects(queue.run(task().run, never), QueueFull);
  first.end();
  second.end();
  await Promise.all(results);
});

test("who leaves the line gives its place to others, and its task never runs", async () => {
  const queue = new BoundedQueue(1, 1);
  const [first, second, third] = [task(), task(), task()];
  const stop = new AbortController();
  const running = queue.run(first.run, never);
  const waiting = queue.run(second.run, stop.signal);
  stop.abort();
  await assert.rejects(waiting, { name: "AbortError" });
  const next = queue.run(third.run, never);
  first.end();
  third.end();
  await Promise.all([running, next]);
  assert.equal(second.started, false);
  assert.equal(queue.running, 0);
});

test("a task that fails gives its place back", async () => {
  const queue = new BoundedQueue(1, 0);
  await assert.rejects(queue.run(() => Promise.reject(new Error("broken")), never), /broken/);
  assert.equal(await queue.run(async () => 1, never), 1);
});
