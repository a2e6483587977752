"""Which thread answers a request that has come: one of many, one of the few for pipelined ones, or the main loop's own.

What is sure to be refused is answered in the main loop: that costs less than the way to a thread and back, and under a
flood of such requests the threads, and with them the interpreter's lock, stay with those that were let in. It is
answered last in each turn of the loop, a few at a time, so that a health check waits for no long row of refusals.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from captioning.server.connection import Connection
from captioning.web.admission import REFUSED
from captioning.web.body import ARRIVED_BODY

PIPELINED_THREADS = 2
"""For requests that were sent before their predecessor's answer was read, which no common client does."""

MAX_PIPELINED = 64
"""Such requests that stand in line for those threads; a connection that brings one more is closed."""

_REFUSE_AT_ONCE = 16


class RequestThreads:
    """The threads that answer requests, and the connections that they have."""

    def __init__(self, serve: Callable[[Connection], None], threads: int) -> None:
        """Prepare; ``serve`` answers a request."""
        self.working: set[Connection] = set()
        self._serve = serve
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="request")
        self._pipelined = ThreadPoolExecutor(PIPELINED_THREADS, thread_name_prefix="pipelined")
        for pool in (self._threads, self._pipelined):
            pool.submit(lambda: None).result()  # each has a thread from now on, also where there are no more later
        self._to_refuse: deque[tuple[Connection, Future[None]]] = deque()

    def has_place_for(self, connection: Connection) -> bool:
        """Tell whether a connection's request may join those that wait for a thread."""
        pipelined = sum(each.pipelined for each in self.working) if connection.pipelined else 0
        return pipelined < MAX_PIPELINED

    def begin(self, connection: Connection) -> Future[None]:
        """Answer a connection's request; the future is done when that is, and the connection is in `working` until."""
        self.working.add(connection)
        answer: Future[None] = Future()
        if (incoming := connection.incoming) is not None:
            is_hopeless, arrived = incoming.is_hopeless, incoming.arrived()
            if is_hopeless and not connection.pipelined:
                connection.environ[REFUSED] = True
                self._to_refuse.append((connection, answer))
                return answer
            connection.environ[ARRIVED_BODY] = arrived
        self._submit(connection, answer)
        return answer

    def _submit(self, connection: Connection, answer: Future[None]) -> None:
        threads = self._pipelined if connection.pipelined else self._threads
        with suppress(RuntimeError):  # the system gives no more threads: those that there are take it
            threads.submit(self._answer, connection, answer)

    @property
    def refusals_wait(self) -> bool:
        """Tell whether `refuse_some` has anything to do."""
        return bool(self._to_refuse)

    def refuse_some(self) -> None:
        """Answer a few of those that are sure to be refused: in this thread, unless the log would hold it up."""
        for _ in range(min(_REFUSE_AT_ONCE, len(self._to_refuse))):
            connection, answer = self._to_refuse.popleft()
            (self._answer if can_log() else self._submit)(connection, answer)

    def _answer(self, connection: Connection, answer: Future[None]) -> None:
        try:
            answer.set_result(self._serve(connection))
        except Exception as error:  # noqa: BLE001 - whoever reads the future meets it
            answer.set_exception(error)


def can_log(log: int = 2) -> bool:
    """Tell whether a line goes into the log at once, as the main loop needs it: who reads it may be stuck.

    ``log`` is its descriptor, a pipe on most platforms.
    """
    return bool(select.select((), (log,), (), 0)[1])
