"""A bounded queue in front of one model thread: pictures that wait together are captioned together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from captioning.deadline import Deadline
from captioning.errors import DeadlineExceeded, Overloaded, ShuttingDown
from captioning.model.engine import Engine, Generation, GenerationOptions, Pixels

_SPEED_MARGIN = 1.25
"""How much slower than measured the model may become before whoever was let in waits in vain."""


@dataclass(frozen=True)
class Captioned:
    """Hold a caption with the seconds that it waited and that the model took for its batch."""

    caption: str
    queue_s: float
    generate_s: float
    encode_s: float
    decode_tokens_s: float
    batch_size: int


@dataclass(frozen=True)
class _Job:
    pixel_values: Pixels
    options: GenerationOptions
    deadline: Deadline
    future: Future[Captioned] = field(default_factory=Future)
    queued_at: float = field(default_factory=time.monotonic)


class Batcher:
    """Collect pictures for one model thread, which calls `run`.

    A batch never waits for company: the model takes whatever waits when it comes free, up to ``max_batch_size``.
    """

    def __init__(
        self, *, max_batch_size: int, max_waiting: int, on_batch: Callable[[Generation], None] = lambda batch: None
    ) -> None:
        """Prepare; ``on_batch`` is called in the model thread with what each batch gave."""
        self._on_batch = on_batch
        self._max_batch_size = max_batch_size
        self._max_waiting = max_waiting
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._running = 0
        self._seconds_per_picture = 0.0

    def submit(self, pixel_values: Pixels, options: GenerationOptions, deadline: Deadline) -> Future[Captioned]:
        """Queue one picture, float32 ``[3, H, W]``.

        The future fails with `DeadlineExceeded` when the deadline passes, or the caller goes, before the model comes
        to it.

        Raises:
            Overloaded: the queue is full, or too long for the deadline.
            ShuttingDown: the batcher is closed.
        """
        job = _Job(pixel_values, options, deadline)
        with self._changed:
            if self._closed:
                raise ShuttingDown
            if len(self._waiting) >= self._max_waiting:
                raise Overloaded(retry_after_s=self.expected_wait_s())
            self.check_wait(deadline)
            self._waiting.append(job)
            self._changed.notify()
        return job.future

    @property
    def waiting(self) -> int:
        """Return how many pictures wait for the model."""
        return len(self._waiting)

    def expected_wait_s(self) -> float:
        """Return the seconds until a picture that came now would be captioned, by the speed measured so far."""
        return (self._running + len(self._waiting) + 1) * self._seconds_per_picture

    def check_wait(self, deadline: Deadline) -> None:
        """Refuse a picture that the model would not have done by its deadline: else all would wait, and none in time.

        An idle model takes every picture, so that one slow batch cannot keep all others out for ever.

        Raises:
            Overloaded: the queue is too long for the deadline.
        """
        ahead = self._running + len(self._waiting)
        longest = (ahead + self._max_batch_size) * self._seconds_per_picture * _SPEED_MARGIN
        if ahead and longest > deadline.remaining():
            raise Overloaded(detail="the queue is too long for the deadline", retry_after_s=self.expected_wait_s())

    def run(self, engine: Engine) -> None:
        """Caption what comes, in the calling thread, until `close` is called and nothing waits any more."""
        while batch := self._next_batch():
            started = time.monotonic()
            try:
                generation = engine.caption(np.stack([job.pixel_values for job in batch]), batch[0].options)
            except Exception as error:  # noqa: BLE001 - the waiting requests raise it at their own edge, which logs it
                for job in batch:
                    job.future.set_exception(error)
                continue
            took = time.monotonic() - started
            self._learn_speed(took / len(batch))
            self._on_batch(generation)
            for job, caption in zip(batch, generation.captions, strict=True):
                job.future.set_result(
                    Captioned(
                        caption,
                        queue_s=started - job.queued_at,
                        generate_s=took,
                        encode_s=generation.encode_s,
                        decode_tokens_s=generation.decode_tokens_s,
                        batch_size=len(batch),
                    )
                )

    def close(self) -> None:
        """Take no more pictures; what waits is still captioned."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next_batch(self) -> list[_Job]:
        """Wait for work; return jobs with equal options, the oldest among them, or none when all is done."""
        with self._changed:
            while True:
                batch = self._take()
                self._running = len(batch)
                if batch or (self._closed and not self._waiting):
                    return batch
                self._changed.wait()

    def _take(self) -> list[_Job]:
        batch: list[_Job] = []
        others: deque[_Job] = deque()
        while self._waiting and len(batch) < self._max_batch_size:
            job = self._waiting.popleft()
            if batch and job.options != batch[0].options:
                others.append(job)
            elif not job.future.set_running_or_notify_cancel():
                continue
            else:
                try:
                    job.deadline.check()
                except DeadlineExceeded as error:
                    job.future.set_exception(error)
                else:
                    batch.append(job)
        self._waiting.extendleft(reversed(others))
        return batch

    def _learn_speed(self, seconds: float) -> None:
        known = self._seconds_per_picture
        self._seconds_per_picture = seconds if not known else 0.8 * known + 0.2 * seconds
