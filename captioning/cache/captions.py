"""Captions that were made before, and for those being made, one request each that makes it for all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol

from cachetools import TLRUCache

from captioning.deadline import Deadline
from captioning.errors import CaptioningError, UnusableImage, copy_for_another_request
from captioning.model.engine import Candidates


@dataclass(frozen=True)
class CachedCaption:
    """A caption that need not be made; ``hit`` is false where another request made it while this one waited."""

    candidates: Candidates
    hit: bool


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A stored caption, and for how many seconds it may still be used (its time to live)."""

    candidates: Candidates
    ttl_s: float


class SharedStore(Protocol):
    """A store of captions outside this process. It answers within milliseconds and raises nothing."""

    def get(self, key: str) -> CacheEntry | None:
        """Return the entry of this key, if there is one."""

    def put(self, key: str, entry: CacheEntry) -> None:
        """Store an entry, if possible."""


# What the followers of a leader receive: the caption, an error, or None: then one of them becomes the next leader.
_Result = CachedCaption | Exception | None


class Leader:
    """The request that makes one caption. Its followers, who want the same, wait until its ``with`` block ends."""

    def __init__(self, cache: CaptionCache, key: str) -> None:
        self.key = key
        self.result: Future[_Result] = Future()
        self._cache = cache

    def resolve(self, candidates: Candidates) -> None:
        """Store the caption and give it to the followers."""
        self._cache._resolve(self, candidates)

    def __enter__(self) -> Leader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._cache._finish(self, _error_for_followers(error))


class CaptionCache:
    """Captions by key, bounded in number and age: the least recently used goes first. Errors are not stored."""

    def __init__(
        self,
        *,
        max_entries: int,
        ttl_s: float,
        shared: SharedStore | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl_s = ttl_s
        self._shared = shared
        self._lock = threading.Lock()  # held while the dictionaries are used, never while anything is waited for
        self._entries: TLRUCache[str, CacheEntry] = TLRUCache(
            max_entries, ttu=lambda key, entry, now: now + entry.ttl_s, timer=clock
        )
        self._leaders: dict[str, Leader] = {}

    def get(self, key: str) -> Candidates | None:
        """Return the caption if this process has it; nothing is waited for."""
        with self._lock:
            entry = self._entries.get(key)
        return entry.candidates if entry else None

    def look_up(self, key: str, deadline: Deadline) -> CachedCaption | Leader:
        """Return the caption, waiting for a leader that makes it now; else make the caller leader, to be entered.

        Raises:
            DeadlineExceeded: the leader was not done in time, or the caller has gone.
            CaptioningError: the leader met an error that this request would meet too.
        """
        while True:
            with self._lock:
                if (entry := self._entries.get(key)) is not None:
                    return CachedCaption(entry.candidates, hit=True)
                if key not in self._leaders:
                    leader = self._leaders[key] = Leader(self, key)
                    break
                result = self._leaders[key].result
            if (found := _wait_for(result, deadline)) is not None:
                return found
        with ExitStack() as leading:
            leading.enter_context(leader)
            if self._shared is not None and (entry := self._shared.get(key)) is not None:
                found = CachedCaption(entry.candidates, hit=True)
                self._finish(leader, found, replace(entry, ttl_s=min(entry.ttl_s, self._ttl_s)))
                return found
            leading.pop_all()  # from here on the caller leads
        return leader

    def _resolve(self, leader: Leader, candidates: Candidates) -> None:
        entry = CacheEntry(candidates, self._ttl_s)
        self._finish(leader, CachedCaption(candidates, hit=False), entry)
        if self._shared is not None:
            self._shared.put(leader.key, entry)

    def _finish(self, leader: Leader, result: _Result, entry: CacheEntry | None = None) -> None:
        """End the leader's turn, unless it has ended; whoever asks next finds the entry or leads."""
        with self._lock:
            if self._leaders.get(leader.key) is not leader:
                return
            del self._leaders[leader.key]
            if entry is not None and self._entries.maxsize:
                self._entries[leader.key] = entry
        leader.result.set_result(result)
        # An error's traceback leads to frames that hold this leader and the picture. Without this line they would
        # form a cycle, and the picture would stay in memory until the garbage collector ran.
        del leader.result


def _wait_for(result: Future[_Result], deadline: Deadline) -> CachedCaption | None:
    while not wait([result], timeout=deadline.poll_s()).done:
        pass
    found = result.result()
    if not isinstance(found, Exception):
        return found
    try:
        raise copy_for_another_request(found)
    finally:
        del found, result  # the same cycle


def _error_for_followers(error: BaseException | None) -> Exception | None:
    """Return the error if every request for this picture would meet it: a bad picture, or a bug.

    The other errors of the tree are the leader's own: its deadline, its client, a full queue, the end of the process.
    """
    own = isinstance(error, CaptioningError) and not isinstance(error, UnusableImage)
    return error if isinstance(error, Exception) and not own else None
