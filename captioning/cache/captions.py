"""Captions that were made before, and one maker for each that several requests want at once."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from captioning.deadline import Deadline
from captioning.errors import CaptioningError, DeadlineExceeded, UnusableImage


@dataclass(frozen=True)
class Known:
    """Hold a caption; ``hit`` tells that it was there when it was asked for, not made meanwhile."""

    caption: str
    hit: bool


@dataclass(frozen=True)
class Kept:
    """Hold a caption that a store keeps, and for how many seconds more."""

    caption: str
    seconds_left: float


class Store(Protocol):
    """What keeps captions outside this process; it answers within milliseconds and raises nothing."""

    def get(self, key: str) -> Kept | None:
        """Return what it keeps under this key."""

    def put(self, key: str, kept: Kept) -> None:
        """Keep a caption, if it can."""


# What a flight ends with: a caption, a failure of all who wait for it, or None, which means: try it yourselves.
Outcome = Known | Exception | None


class Flight:
    """The duty to make one caption, for all who want it meanwhile; it ends with its ``with`` block, well or not."""

    def __init__(self, cache: CaptionCache, key: str) -> None:
        self.key = key
        self.outcome: Future[Outcome] = Future()
        self._cache = cache

    def land(self, caption: str) -> None:
        """Remember the caption and hand it to those who wait for it."""
        self._cache._land(self, caption)

    def __enter__(self) -> Flight:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._cache._end(self, _everyones(error))


class CaptionCache:
    """Remember captions by key, bounded in number and age. Failures are not remembered.

    The least recently used goes first. That takes a few lines of OrderedDict: a cache library would have to share
    this lock with the flights, and to give entries from the shared store less time than those made here.
    """

    def __init__(self, *, max_entries: int, ttl_s: float, shared: Store | None = None) -> None:
        self._max_entries = max_entries
        self._ttl_s = ttl_s
        self._shared = shared
        self._lock = threading.Lock()  # held for dictionary work only, never while anything is waited for
        self._entries: OrderedDict[str, tuple[str, float]] = OrderedDict()  # a caption, and until when it counts
        self._flights: dict[str, Flight] = {}

    def look_up(self, key: str, deadline: Deadline) -> Known | Flight:
        """Return the caption, waiting for whoever makes it just now; else a flight, which the caller must enter.

        Raises:
            DeadlineExceeded: another request makes it, but not in time.
            Exception: another request could not make it, and neither could this one.
        """
        while True:
            with self._lock:
                if (caption := self._remembered(key)) is not None:
                    return Known(caption, hit=True)
                if key not in self._flights:
                    mine = self._flights[key] = Flight(self, key)
                    break
                others = self._flights[key].outcome
            if (known := _wait_for(others, deadline)) is not None:
                return known
        with ExitStack() as flying:
            flying.enter_context(mine)
            if self._shared is not None and (kept := self._shared.get(key)) is not None:
                known = Known(kept.caption, hit=True)
                self._end(mine, known, min(kept.seconds_left, self._ttl_s))
                return known
            flying.pop_all()  # from here on it is the caller's
        return mine

    def _land(self, flight: Flight, caption: str) -> None:
        self._end(flight, Known(caption, hit=False), self._ttl_s)
        if self._shared is not None:
            self._shared.put(flight.key, Kept(caption, self._ttl_s))

    def _end(self, flight: Flight, outcome: Outcome, seconds: float = 0) -> None:
        """End the flight, unless it has ended; whoever comes next finds the caption or begins anew."""
        with self._lock:
            if self._flights.get(flight.key) is not flight:
                return
            del self._flights[flight.key]
            if isinstance(outcome, Known):
                self._remember(flight.key, outcome.caption, seconds)
        flight.outcome.set_result(outcome)
        # A failure leads, by its traceback, to frames that hold this flight and the picture: no circle must keep them.
        del flight.outcome

    def _remembered(self, key: str) -> str | None:
        caption, until = self._entries.get(key, (None, 0.0))
        if caption is not None and time.monotonic() < until:
            self._entries.move_to_end(key)
            return caption
        self._entries.pop(key, None)
        return None

    def _remember(self, key: str, caption: str, seconds: float) -> None:
        self._entries[key] = (caption, time.monotonic() + seconds)
        self._entries.move_to_end(key)
        while len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)


def _wait_for(flight: Future[Outcome], deadline: Deadline) -> Known | None:
    try:
        outcome = flight.result(timeout=deadline.remaining())
    except TimeoutError as error:
        raise DeadlineExceeded(detail="waited for another request's caption of the same picture") from error
    if not isinstance(outcome, Exception):
        return outcome
    try:
        raise outcome
    finally:
        del outcome, flight  # the same circle


def _everyones(error: BaseException | None) -> Exception | None:
    """Return the failure if it would meet others with the same picture too: a bad picture, or a bug.

    Whatever else the tree of errors holds is the request's own: its deadline, its client, a full queue, the end of
    the process.
    """
    own = isinstance(error, CaptioningError) and not isinstance(error, UnusableImage)
    return error if isinstance(error, Exception) and not own else None
