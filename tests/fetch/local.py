"""A fetcher for servers on this machine, and a resolver that asks nobody else."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from captioning.fetch.fetcher import Fetcher

PICTURE = bytes(range(256)) * 40
OK = "HTTP/1.1 200 OK\r\n"
CHUNKED = f"{OK}Transfer-Encoding: chunked\r\n\r\n".encode()

_REAL_GETADDRINFO = socket.getaddrinfo


def make_fetcher(**changes: Any) -> Fetcher:
    """Return a fetcher for local servers: any port, any address."""
    options: dict[str, Any] = {
        "connect_timeout_s": 30.0,
        "timeout_s": 30.0,
        "max_redirects": 5,
        "max_bytes": 1_000_000,
        "allowed_ports": None,
        "allow_private_addresses": True,
        "allowed_hosts": frozenset(),
        "user_agent": "tests/1.0",
    }
    return shared_fetcher(os.environ.get("SSL_CERT_FILE"), **options | changes)


@cache
def shared_fetcher(_trusted: str | None, **options: Any) -> Fetcher:
    """Make each kind of fetcher once: it keeps nothing, and reading the trust stores takes a while."""
    return Fetcher(**options)


class Names:
    """A resolver that knows what it was told, and numbers as the system's own reads them."""

    def __init__(self) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []

    def tell(self, name: str, *answers: list[str]) -> None:
        """Answer with each list of addresses in turn, and with the last one ever after."""
        self.answers[name] = list(answers)

    def getaddrinfo(self, host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        self.asked.append(host)
        if host not in self.answers:
            return _REAL_GETADDRINFO(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        turns = self.answers[host]
        addresses = turns.pop(0) if len(turns) > 1 else turns[0]
        return [
            found
            for address in addresses
            for found in _REAL_GETADDRINFO(address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        ]


@contextmanager
def ended_in_time() -> Iterator[None]:
    """Allow for a busy machine: what is ended here would otherwise last half a minute or for ever."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < 10


@contextmanager
def memory_under(most_bytes: int) -> Iterator[None]:
    """Check that Python takes no more memory than that at any time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most_bytes
    finally:
        tracemalloc.stop()


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def look_ups() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "dns-look-up"]
