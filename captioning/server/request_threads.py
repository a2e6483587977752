"""Which thread answers a request that has come: one of many, one of the few for pipelined ones, or the main loop's own.

What is sure to be refused is answered in the main loop: that costs less than the way to a thread and back, and under a
flood of such requests the threads, and with them the interpreter's lock, stay with those that were let in.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from captioning.server.connection import Connection
from captioning.web.admission import REFUSED
from captioning.web.body import ARRIVED_BODY

PIPELINED_THREADS = 2
"""For requests that were sent before their predecessor's answer was read, which no common client does."""

MAX_PIPELINED = 64
"""Such requests that stand in line for those threads; a connection that brings one more is closed."""


class RequestThreads:
    """The threads that answer requests, and the connections that they have."""

    def __init__(self, serve: Callable[[Connection], None], threads: int) -> None:
        """Prepare; ``serve`` answers a request."""
        self.working: set[Connection] = set()
        self._serve = serve
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="request")
        self._pipelined = ThreadPoolExecutor(PIPELINED_THREADS, thread_name_prefix="pipelined")
        self._in_place = _InPlace()

    def has_place_for(self, connection: Connection) -> bool:
        """Tell whether a connection's request may join those that wait for a thread."""
        pipelined = sum(each.pipelined for each in self.working) if connection.pipelined else 0
        return pipelined < MAX_PIPELINED

    def begin(self, connection: Connection) -> Future[None]:
        """Answer a connection's request; the future is done when that is, and the connection is in `working` until."""
        self.working.add(connection)
        executor: Executor = self._pipelined if connection.pipelined else self._threads
        if (incoming := connection.incoming) is not None:
            is_hopeless, arrived = incoming.is_hopeless, incoming.arrived()
            if is_hopeless and not connection.pipelined and can_log():
                connection.environ[REFUSED] = True
                executor = self._in_place
            else:
                connection.environ[ARRIVED_BODY] = arrived
        return executor.submit(self._serve, connection)


def can_log(log: int = 2) -> bool:
    """Tell whether a line goes into the log at once, as the main loop needs it: who reads it may be stuck.

    ``log`` is its descriptor, a pipe on most platforms.
    """
    return bool(select.select((), (log,), (), 0)[1])


class _InPlace(Executor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - whoever reads the future meets it, as if it came from a thread
            future.set_exception(error)
        return future
