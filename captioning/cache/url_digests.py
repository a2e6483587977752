"""Which picture a URL led to when it was last downloaded."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable

from cachetools import TTLCache


class UrlDigests:
    """The digests of pictures by URL, bounded in number and age: the least recently used goes first.

    With the digest a caption can be looked up without a download. A server may put another picture behind the same
    URL, so such a caption may be ``ttl_s`` seconds behind. Use it only where the request would be refused otherwise.
    URLs are stored as hashes: they may be long, and they may hold secrets.
    """

    def __init__(self, *, max_entries: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._digests: TTLCache[bytes, bytes] = TTLCache(max_entries, ttl_s, timer=clock)

    def get(self, url: str) -> bytes | None:
        """Return the digest of the picture that was last downloaded from this URL, if it is known."""
        with self._lock:
            return self._digests.get(_hash(url))

    def put(self, url: str, digest: bytes) -> None:
        """Store the digest of a picture that was downloaded from this URL."""
        with self._lock:
            if self._digests.maxsize:
                self._digests[_hash(url)] = digest


def _hash(url: str) -> bytes:
    return hashlib.sha256(url.encode(errors="surrogatepass")).digest()
