"""What the service counts and measures, for Prometheus; docs/operations.md explains each metric.

Counters and histograms are told what happened (`observe_…`). Gauges are read from the objects that they show,
every second in the process that serves, and when Prometheus asks. No label takes a value that a stranger chose.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from captioning.lifecycle import Readiness
from captioning.limits import Limits
from captioning.model.batcher import Batcher
from captioning.model.engine import Generation
from captioning.observe.metrics_folder import metrics_folder
from captioning.trace import STAGES, Trace

log = logging.getLogger("captioning.metrics")

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_STAGES = tuple(stage for stage in STAGES if stage != "generate")  # which is measured by its two parts
_BATCH_STAGES = ("encode", "decode_tokens")
_CACHE_RESULTS = ("hit", "miss")
# Metric -> the limit that it shows (captioning.limits.Limits), and what that counts.
_LIMITS = {
    "permits": ("requests", "Requests under way"),
    "url_permits": ("urls", "Requests under way that bring URLs or several pictures"),
    "body_bytes": ("bodies", "Bytes of request bodies"),
    "downloads": ("downloads", "Downloads under way"),
    "picture_bytes": ("pictures", "Bytes of encoded pictures"),
    "decoders": ("decoders", "Pictures that are decoded"),
}
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_PICTURES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_READ_EVERY_S = 1.0


class Metrics:
    """The metrics of one process; with several workers, the one that is asked adds them up."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = self._counter("requests", "Requests answered.", "route", "method", "status", "code", "api_key")
        self._request_seconds = self._histogram(
            "request_seconds", "From a request's arrival to its answer.", _SECONDS, "route", "status_class"
        )
        self._stage_seconds = self._histogram(
            "stage_seconds", "Time in a stage, of a picture or (encode, decode_tokens) of a batch.", _SECONDS, "stage"
        )
        self._batch_pictures = self._histogram("batch_pictures", "Pictures in a call of the model.", _PICTURES)
        self._tokens = self._counter("generated_tokens", "Tokens of captions.")
        self._cache_lookups = self._counter("cache_lookups", "Pictures looked up in the caption cache.", "result")
        self._worker_starts = self._counter("worker_starts", "Worker processes that began to serve.")

        self._queue = self._gauge("queue_pictures", "Pictures that wait for the model.")
        self._limits = {
            attribute: {
                "in_use": self._gauge(f"{name}_in_use", f"{what}."),
                "limit": self._gauge(f"{name}_limit", f"{what}: the most that there may be."),
                "waiting": self._gauge(f"{name}_waiting", f"{what}: how many wait in line for this limit."),
            }
            for name, (attribute, what) in _LIMITS.items()
        }
        self._model_state = self._gauge("model_state", "Workers whose model is in this state.", "status")
        self._memory = self._gauge("worker_memory_bytes", "Resident memory of a worker.", "worker", "kind")
        self._read_gauges: Callable[[], None] = lambda: None
        self._full = False

    def watch(self, limits: Limits, batcher: Batcher, readiness: Callable[[], Readiness]) -> None:
        """Name the objects that the gauges show."""

        def read() -> None:
            self._queue.set(batcher.waiting)
            for attribute, gauges in self._limits.items():
                for reading, gauge in gauges.items():
                    gauge.set(getattr(getattr(limits, attribute), reading))
            for status in get_args(Readiness):
                self._model_state.labels(status).set(readiness() == status)
            for kind, size in resident_memory().items():
                self._memory.labels(str(os.getpid()), kind).set(size)

        self._read_gauges = read

    def start(self) -> None:
        """Begin to serve: count this process as started, and read the gauges from now on."""
        with self._if_there_is_room():
            self._worker_starts.inc()
            # Made now, they show zero before anything happens: rates need a first value.
            for stage in (*_REQUEST_STAGES, *_BATCH_STAGES):
                self._stage_seconds.labels(stage)
            for result in _CACHE_RESULTS:
                self._cache_lookups.labels(result)
        threading.Thread(target=self._keep_reading, name="metrics", daemon=True).start()

    def observe_request(self, *, route: str, method: str, status: int, code: str, api_key: str, seconds: float) -> None:
        """Count an answered request; ``route`` is a rule, never a path, and ``api_key`` a name from the settings."""
        method = method if method in _METHODS else "other"
        with self._if_there_is_room():
            self._requests.labels(route, method, str(status), code, api_key).inc()
            self._request_seconds.labels(route, f"{status // 100}xx").observe(seconds)

    def observe_picture(self, trace: Trace) -> None:
        """Count a picture: how long its own stages took, the model's being its batch's, and what the cache said."""
        if trace.cache:
            self._cache_lookups.labels(trace.cache).inc()
        for stage in _REQUEST_STAGES:
            if stage in trace.seconds:
                self._stage_seconds.labels(stage).observe(trace.seconds[stage])

    def observe_batch(self, batch: Generation) -> None:
        """Count one call of the model."""
        self._batch_pictures.observe(len(batch.candidates))
        self._tokens.inc(batch.tokens)
        self._stage_seconds.labels("encode").observe(batch.encode_s)
        self._stage_seconds.labels("decode_tokens").observe(batch.decode_tokens_s)

    def exposition(self) -> bytes:
        """Return all metrics, those of the other workers with them, in Prometheus' text format."""
        self._read()
        registry = self._registry
        if folder := metrics_folder():
            registry = CollectorRegistry()
            MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def _read(self) -> None:
        with self._if_there_is_room():
            self._read_gauges()

    @contextmanager
    def _if_there_is_room(self) -> Iterator[None]:
        """Go without what finds no room in the folder that workers share, and say so once."""
        try:
            yield
        except OSError as error:
            if not self._full:
                self._full = True
                log.warning("The metrics' folder is full, so that new ones are not counted: %s.", error)

    def _keep_reading(self) -> None:
        while True:
            self._read()
            time.sleep(_READ_EVERY_S)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"captioning_{name}", meaning, labels, registry=self._registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        # Workers' values are added up as long as they live; where `worker` is a label there is but one to add.
        return Gauge(f"captioning_{name}", meaning, labels, registry=self._registry, multiprocess_mode="livesum")

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"captioning_{name}", meaning, labels, buckets=buckets, registry=self._registry)


def resident_memory() -> dict[str, int]:
    """Return this process' resident memory in bytes: its own (anon), mapped from files, shared; nothing off Linux."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return {}
    fields = dict(line.split(":", 1) for line in lines if line.startswith("Rss"))
    return {name.removeprefix("Rss").lower(): int(size.split()[0]) * 1024 for name, size in fields.items()}
