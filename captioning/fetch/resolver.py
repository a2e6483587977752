"""From a host name to addresses by the system's resolver, whose look-ups may get stuck for long.

``getaddrinfo`` knows hosts files and search domains as nothing else does, but it cannot be interrupted: where a name
server is silent, it takes half a minute and more. So each look-up has a thread of its own, which is left behind at the
deadline, and no name, no domain and no flood of names can take all of these threads for long.
"""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from typing import Any

from captioning.deadline import Deadline
from captioning.errors import ImageFetchFailed, InvalidImageUrl, Overloaded

Address = tuple[socket.AddressFamily, tuple[Any, ...]]

MAX_LOOK_UPS = 64
_SHARE = 8
"""Names with the last two labels in common have at most an eighth of what is free: silent name servers, even those of
many domains, leave room for all others."""

STUCK_S = 10.0
"""A name whose look-up takes longer is not waited for by those who ask later. The system asks each server for 5 s, and
most often the second time is answered."""


class Resolver:
    """What looks names up, for many threads at once: those who ask for the same name wait for the same look-up."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[Future[list[Address]], float]] = {}  # with the time since when
        self._changed = threading.Condition()

    def addresses(self, host: str, port: int, deadline: Deadline) -> list[Address]:
        """Return what may be dialled for a host, in the system's order; the address that it names, if it names one.

        Raises:
            ImageFetchFailed: the name is not found, or its servers have been silent for long.
            InvalidImageUrl: no host can have this name.
            TimedOut: as the deadline says.
        """
        found = [literal] if (literal := _literal(host)) else self._looked_up(host, deadline)
        return [(family, (where[0], port, *where[2:])) for family, where in found]

    def _looked_up(self, host: str, deadline: Deadline) -> list[Address]:
        answer = self._look_up(host, deadline)
        while not wait([answer], timeout=deadline.poll_s()).done:
            continue
        error = answer.exception()
        if isinstance(error, UnicodeError):
            raise InvalidImageUrl("The image's URL names no valid host.", detail=str(error)) from error
        if isinstance(error, MemoryError):
            raise Overloaded(detail="no memory for a look-up", retry_after_s=1) from error
        if error is not None:
            raise ImageFetchFailed("The image's host name could not be found.", detail=str(error)) from error
        return answer.result()

    def _look_up(self, host: str, deadline: Deadline) -> Future[list[Address]]:
        """Begin a look-up, once there is room for it; return the one that is under way, if there is one."""
        domain = _domain(host)
        with self._changed:
            while host not in self._running:
                beside = sum(_domain(other) == domain for other in self._running)
                if beside < (MAX_LOOK_UPS - len(self._running)) / _SHARE:
                    answer: Future[list[Address]] = Future()
                    # A daemon, because a stuck one must not keep the process from ending.
                    thread = threading.Thread(target=self._run, args=(host, answer), name="dns-look-up", daemon=True)
                    try:
                        thread.start()
                    except RuntimeError as exc:
                        raise Overloaded(detail=str(exc), retry_after_s=1) from exc
                    self._running[host] = answer, time.monotonic()
                    return answer
                self._changed.wait(timeout=deadline.poll_s())
            answer, since = self._running[host]
        if time.monotonic() - since > STUCK_S:
            raise ImageFetchFailed("The name servers of the image's host do not answer.")
        return answer

    def _run(self, host: str, answer: Future[list[Address]]) -> None:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            tell = partial(answer.set_result, [(family, where) for family, _, _, _, where in found])
        except (OSError, ValueError, MemoryError) as exc:
            tell = partial(answer.set_exception, exc)
        with self._changed:  # before it is answered: who asks from then on begins a new look-up
            del self._running[host]
            self._changed.notify_all()
        tell()


def _domain(host: str) -> str:
    return ".".join(host.rstrip(".").split(".")[-2:])


def _literal(host: str) -> Address | None:
    """Return the address that a host is, in any spelling that the system's resolver takes for one, such as 127.1."""
    with suppress(OSError):
        return socket.AF_INET, (socket.inet_ntoa(socket.inet_aton(host)), 0)
    with suppress(OSError):
        return socket.AF_INET6, (socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, host)), 0, 0, 0)
    return None
