"""Many pictures through the pipeline: threads read and decode ahead, the calling thread runs the model.

    offline = OfflineRun(engine, decoders, settings, options, report=print)
    offline.run(["a.jpg", "https://example.com/b.jpg"])   # reports each outcome, in this order
    offline.stop()                                        # after run was interrupted: reports what is ready

The model is kept busy by twice as many threads as a batch has pictures: while one batch is captioned, the next is
decoded and waits. What is in memory is bounded by the number of threads, however many sources there are.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from captioning.cli.records import Outcome
from captioning.cli.sources import is_url, read_file
from captioning.deadline import Deadline
from captioning.errors import CaptioningError, InternalError, ShuttingDown
from captioning.limits import Limits, within_limit
from captioning.model.batcher import Batcher
from captioning.model.engine import Candidates, Engine, GenerationOptions
from captioning.pictures.decoders import Decoders
from captioning.pipeline import EncodedPicture, Model, make_pipeline
from captioning.settings import Settings
from captioning.trace import Trace

log = logging.getLogger("captioning.cli")

# No caller waits for one picture. A download still has its own limit.
_PATIENCE_S = 7 * 24 * 3600.0
# How long a stopped run waits for threads that still decode. Downloads are not waited for.
_JOIN_TIMEOUT_S = 1.0


def threads_for(settings: Settings) -> int:
    """Return how many threads keep the model busy: they read and decode the next batches while one is captioned."""
    return 2 * settings.batch_max_size + 4


class OfflineStages:
    """All stages for pictures that no caller waits for: a source in, a caption or an error out, in any thread."""

    def __init__(
        self, model: Model, batcher: Batcher, decoders: Decoders, settings: Settings, options: GenerationOptions
    ) -> None:
        """Prepare for as many pictures at once as `threads_for` tells; another thread runs ``batcher``."""
        self.stopped = False
        self._batcher = batcher
        # Room for a download in every thread. What is captioned is written, not remembered.
        changed = {"max_concurrent_requests": 2 * threads_for(settings), "cache_max_entries": 0, "cache_url": None}
        settings = settings.model_copy(update=changed)
        self._options = options
        self._max_image_bytes = settings.max_image_bytes
        self._limits = Limits.from_settings(settings)
        self._pipeline = make_pipeline(settings, model, batcher, self._limits, decoders)

    def caption(self, source: str | bytes) -> Candidates | CaptioningError:
        """Caption a picture, given as an http(s) URL, as a file's path or as its encoded bytes."""
        deadline = Deadline.after(_PATIENCE_S)
        try:
            if isinstance(source, str) and is_url(source):
                return self._pipeline.caption(source, self._options, deadline=deadline, trace=Trace())
            with self._limits.pictures.hold() as hold:
                limit = self._max_image_bytes
                picture = EncodedPicture(
                    read_file(source, max_bytes=limit) if isinstance(source, str) else within_limit(source, limit), hold
                )
                hold.grow(len(picture.data), deadline)
                return self._pipeline.caption(picture, self._options, deadline=deadline, trace=Trace())
        except CaptioningError as error:
            if isinstance(error, InternalError):
                log.error("%.200r", source, exc_info=error.__cause__)
            return error
        except Exception:  # a bug that one picture meets must not lose the others
            if not self.stopped:
                log.exception("%.200r", source)
            return InternalError()

    def stop(self) -> None:
        """Caption nothing more: whatever waits for the model fails."""
        self.stopped = True
        self._batcher.fail(ShuttingDown())


class OfflineRun:
    """A run over many sources that reports the outcome of each, in their order."""

    def __init__(
        self,
        engine: Engine,
        decoders: Decoders,
        settings: Settings,
        options: GenerationOptions,
        *,
        report: Callable[[Outcome], None],
    ) -> None:
        """Prepare; ``report`` is called from one thread at a time, and what it raises ends the run."""
        self._engine = engine
        self._threads = [
            threading.Thread(target=self._work, name=f"picture-{number}", daemon=True)
            for number in range(threads_for(settings))
        ]
        self._batcher = Batcher(max_batch_size=settings.batch_max_size)
        self._stages = OfflineStages(_LoadedModel(engine), self._batcher, decoders, settings, options)
        self._sources: Sequence[str] = ()
        self._taken = 0
        self._reported = 0
        self._ready: dict[int, Outcome] = {}
        self._report = report
        self._failure: Exception | None = None
        self._lock = threading.Lock()

    def run(self, sources: Sequence[str]) -> None:
        """Caption the sources; call it once. After an interrupt, call `stop`.

        It raises what ``report`` raises.
        """
        self._sources = sources
        if not sources:
            return
        for thread in self._threads:
            thread.start()
        self._batcher.run(self._engine)
        self._join()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Start nothing more, and report the outcomes that are ready although earlier ones are missing."""
        with self._lock:
            self._stages.stop()
        self._join()
        with self._lock:
            for number in sorted(self._ready):
                self._report(self._ready.pop(number))

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            number, source = taken
            outcome = Outcome(source, self._stages.caption(source))
            with self._lock:
                self._report_in_order(number, outcome)

    def _take(self) -> tuple[int, str] | None:
        with self._lock:
            number = self._taken
            if self._stages.stopped or number == len(self._sources):
                return None
            self._taken += 1
            return number, self._sources[number]

    def _report_in_order(self, number: int, outcome: Outcome) -> None:
        """Report this outcome and the later ones that waited for it; or let it wait for earlier ones."""
        if self._stages.stopped:
            if not isinstance(outcome.result, CaptioningError):  # an error may only mean that nobody waits any more
                self._ready[number] = outcome
            return
        self._ready[number] = outcome
        try:
            while self._reported in self._ready:
                self._report(self._ready.pop(self._reported))
                self._reported += 1
        except Exception as error:  # noqa: BLE001 - run raises it
            self._failure = error
        if self._failure is not None or self._reported == len(self._sources):
            self._stages.stop()

    def _join(self) -> None:
        end = time.monotonic() + _JOIN_TIMEOUT_S
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=max(0.0, end - time.monotonic()))


class _LoadedModel:
    """A loaded model, as the pipeline asks for it."""

    identity = ""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def engine(self) -> Engine:
        return self._engine
