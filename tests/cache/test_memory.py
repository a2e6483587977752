"""What full caches take of memory: docs/performance.md says so."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Callable

from captioning.cache.captions import CaptionCache, Leader
from captioning.cache.url_digests import UrlDigests
from captioning.deadline import UNLIMITED
from captioning.model.engine import Caption

MIB = 1024 * 1024
ENTRIES = 10_000  # CACHE_MAX_ENTRIES by default


def grown_mib(fill: Callable[[int], None]) -> float:
    """Return how much memory it takes to put in twice as many entries as there is room for."""
    tracemalloc.start()
    try:
        for number in range(2 * ENTRIES):
            fill(number)
        return tracemalloc.get_traced_memory()[0] / MIB
    finally:
        tracemalloc.stop()


def test_captions_take_no_more_than_is_said() -> None:
    cache = CaptionCache(max_entries=ENTRIES, ttl_s=3600)

    def fill(number: int) -> None:
        key = f"caption:1:{hashlib.sha256(str(number).encode()).hexdigest()}"
        leader = cache.look_up(key, UNLIMITED)
        assert isinstance(leader, Leader)
        text = f"a person sitting on a bench in a park, seen {number} times"
        with leader:
            leader.resolve((Caption(text, number / 1e6, -number / 7, 20, "end"),))

    assert 3 < grown_mib(fill) < 6.5


def test_digests_of_urls_take_no_more_than_is_said() -> None:
    digests = UrlDigests(max_entries=ENTRIES, ttl_s=3600)

    def fill(number: int) -> None:
        digests.put(f"https://example.com/{number}", hashlib.sha256(str(number).encode()).digest())

    assert 2 < grown_mib(fill) < 4.5
