"""A bounded queue in front of one model thread: pictures that wait together are captioned together."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from captioning.deadline import Deadline
from captioning.errors import (
    CaptioningError,
    ModelFailed,
    Overloaded,
    ShuttingDown,
    copy_for_another_request,
)
from captioning.model.engine import Candidates, Engine, Generation, GenerationOptions, Pixels, warm_up
from captioning.model.speed import BatchSeconds

log = logging.getLogger("captioning.model")

_SPEED_MARGIN = 1.25
"""How much slower than measured the model may become before a picture that was queued is too late."""


@dataclass(frozen=True)
class Captioned:
    """A caption with the seconds that it waited and that the model took for its batch."""

    candidates: Candidates
    queue_s: float
    generate_s: float
    encode_s: float
    decode_tokens_s: float
    batch_size: int


@dataclass(frozen=True, eq=False)
class _Job:
    pixel_values: Pixels  # [3, H, W]
    options: GenerationOptions
    deadline: Deadline
    queued_at: float
    future: Future[Captioned] = field(default_factory=Future)


class Batcher:
    """The queue of one model thread, which calls `run`.

    A batch never waits for company: the model takes what waits when it comes free, up to ``max_batch_size``.
    """

    def __init__(
        self,
        *,
        max_batch_size: int,
        on_batch: Callable[[Generation], None] = lambda batch: None,
        speed: BatchSeconds | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; ``on_batch`` is called in the model thread with what each batch gave."""
        self._on_batch = on_batch
        self._max_batch_size = max_batch_size
        self._clock = clock
        self._waiting: dict[_Job, None] = {}  # in order of arrival
        self._changed = threading.Condition()
        self._refusal: CaptioningError | None = None
        self._speed = speed or BatchSeconds()
        self.has_captioned = False
        self._running = 0
        self._running_since = 0.0

    @property
    def waiting(self) -> int:
        """Return how many pictures wait for the model."""
        return len(self._waiting)

    def submit(self, pixel_values: Pixels, options: GenerationOptions, deadline: Deadline) -> Future[Captioned]:
        """Queue one picture, float32 ``[3, H, W]``. A future that is cancelled leaves the queue at once.

        The future fails with what the deadline raises when that passes, or the caller goes, before the model comes to
        it.

        Raises:
            Overloaded: the queue is too long for the deadline.
            ShuttingDown, ModelFailed: the queue is closed.
        """
        job = _Job(pixel_values, options, deadline, queued_at=self._clock())
        with self._changed:
            if self._refusal is not None:
                raise copy_for_another_request(self._refusal)
            self.check_wait(deadline, options)
            self._waiting[job] = None
            self._changed.notify_all()
        job.future.add_done_callback(lambda _: self._leave(job))
        return job.future

    def expected_wait_s(self, options: GenerationOptions | None = None) -> float:
        """Return the seconds until a picture that came now would be captioned, by the speed measured so far."""
        with self._changed:
            pictures = Counter(job.options for job in self._waiting)
            pictures[options or GenerationOptions()] += 1
            return self._expected_s(pictures)

    def _expected_s(self, pictures: Counter[GenerationOptions]) -> float:
        """Return the seconds until the running batch and these pictures are done; equal options share batches."""
        left, pace = 0.0, 1.0
        if self._running:
            ran = self._clock() - self._running_since
            left = max(0.0, self._speed.of(self._running) - ran)
            pace = self._speed.pace(self._running, ran)
        for count in pictures.values():
            whole, rest = divmod(count, self._max_batch_size)
            left += pace * (whole * self._speed.of(self._max_batch_size) + self._speed.of(rest))
        return left

    def check_wait(self, deadline: Deadline, options: GenerationOptions) -> None:
        """Refuse a picture that the model would not have done by its deadline: else all would wait, and none in time.

        An idle model takes every picture, so that one slow batch cannot keep all others out for ever.

        Raises:
            Overloaded: the queue is too long for the deadline.
        """
        if not self._running and not self._waiting:
            return
        expected = self.expected_wait_s(options)
        if expected * _SPEED_MARGIN > deadline.remaining():
            raise Overloaded(detail="the queue is too long for the deadline", retry_after_s=expected)

    def run(self, engine: Engine) -> None:
        """Caption what comes, in the calling thread, until `close` is called and nothing waits any more.

        Raises:
            Exception: what the engine raised, when it cannot caption any picture any more. All that waited has
                failed by then.
        """
        while batch := self._next_batch():
            started = self._clock()
            try:
                generation = engine.caption(np.stack([job.pixel_values for job in batch]), batch[0].options)
            except Exception as error:  # noqa: BLE001 - each request of the batch raises it at its own edge, which logs it
                for job in batch:
                    job.future.set_exception(copy_for_another_request(error))
                self._check_engine(engine)
                continue
            took = self._clock() - started
            self._speed.learn(len(batch), took)
            for job, candidates in zip(batch, generation.candidates, strict=True):
                job.future.set_result(
                    Captioned(
                        candidates,
                        queue_s=started - job.queued_at,
                        generate_s=took,
                        encode_s=generation.encode_s,
                        decode_tokens_s=generation.decode_tokens_s,
                        batch_size=len(batch),
                    )
                )
            self.has_captioned = True
            self._report(generation)

    def close(self) -> None:
        """Take no more pictures; what waits is still captioned."""
        with self._changed:
            self._refusal = self._refusal or ShuttingDown()
            self._changed.notify_all()

    def fail(self, error: CaptioningError) -> None:
        """Take no more pictures, and fail those that wait."""
        with self._changed:
            self._refusal = error
            waiting = list(self._waiting)
            self._changed.notify_all()
        for job in waiting:
            _end(job, copy_for_another_request(error))

    def _check_engine(self, engine: Engine) -> None:
        """Tell a batch that the engine could not caption, say for want of memory, from an engine that cannot go on."""
        try:
            warm_up(engine)
        except Exception:
            self.fail(ModelFailed())
            raise

    def _report(self, generation: Generation) -> None:
        try:
            self._on_batch(generation)
        except Exception:  # whoever counts batches must not end the model thread
            log.exception("A batch could not be counted.")

    def _next_batch(self) -> list[_Job]:
        """Wait for work; return jobs with equal options, the oldest among them, or none when all is done."""
        with self._changed:
            while True:
                self._running = 0
                batch = self._take()
                self._running, self._running_since = len(batch), self._clock()
                if batch or (self._refusal is not None and not self._waiting):
                    return batch
                if not self._waiting:
                    self._changed.wait()

    def _take(self) -> list[_Job]:
        """Take the oldest picture and those that share its batch; refuse who is late by now, and need not wait for it.

        Pictures become late when batches take longer than before. The one with the latest deadline is kept: without
        running one, no new speed could be measured.
        """
        for job in list(self._waiting):
            try:
                job.deadline.check()
            except CaptioningError as error:
                _end(job, error)
        waiting, now = list(self._waiting), time.monotonic()
        spared = max(waiting, key=lambda job: job.deadline.at, default=None)
        all_done_at = now + self._expected_s(Counter(job.options for job in waiting))
        any_late = any(all_done_at > job.deadline.at for job in waiting)
        first: list[_Job] = []
        begins_at = now
        while waiting and (any_late or not first):  # the later batches are planned to find who is late
            batch: list[_Job] = []
            for job in [job for job in waiting if job.options == waiting[0].options]:
                done_at = begins_at + self._speed.of(len(batch) + 1)
                if len(batch) == self._max_batch_size or any(done_at > each.deadline.at for each in batch):
                    break
                waiting.remove(job)
                if job is spared or done_at <= job.deadline.at:
                    batch.append(job)
                else:
                    _end(job, Overloaded(detail="late by now", retry_after_s=done_at - now))
            begins_at += self._speed.of(len(batch))
            first = first or batch
        for job in first:
            del self._waiting[job]
        return [job for job in first if job.future.set_running_or_notify_cancel()]

    def _leave(self, job: _Job) -> None:
        with self._changed:
            self._waiting.pop(job, None)
            self._changed.notify_all()


def _end(job: _Job, error: CaptioningError) -> None:
    if job.future.set_running_or_notify_cancel():
        job.future.set_exception(error)
