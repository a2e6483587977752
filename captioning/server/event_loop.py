"""The main loop: it waits for all clients at once, so that a thread only gets a request that has come whole.

Slow clients cost a connection and no thread: heads and bodies are collected here, and answers that a client does not
take at once are sent from here. Each of these ends in time, and each is bounded in bytes.
"""

from __future__ import annotations

import logging
import math
import socket
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from selectors import EVENT_READ, EVENT_WRITE

from captioning.server.body_reader import BodyReader
from captioning.server.connection import Connection, Phase
from captioning.server.connection_table import ConnectionTable
from captioning.server.exchange import BadHttp, Exchange
from captioning.server.newcomers import Newcomers
from captioning.server.poller import Poller
from captioning.server.protocol_errors import protocol_error
from captioning.server.request_threads import RequestThreads
from captioning.server.slow_readers import SEND_TIMEOUT_S, to_hang_up_on
from captioning.server.wsgi import make_environ
from captioning.web.body import BodyRules

HEAD_TIMEOUT_S = 10.0
"""From the first byte of a request, or from the connection, to its last header. A browser on a bad line needs two
seconds; gateways and proxies send them in one piece."""

_LINGER_S = 2.0  # for a client that was refused while it sent: closed with bytes unread, it would not see the answer
_PIECE = 65_536
_SWEEP_S = 0.25
_POLL_BUDGET_S = 0.02


class EventLoop:
    """All connections of one worker."""

    def __init__(
        self,
        listeners: Iterable[socket.socket],
        serve: Callable[[Connection], None],
        *,
        bodies: BodyRules,
        max_connections: int,
        threads: int,
        keepalive_s: float,
        script_name: str,
        may_accept: Callable[[], bool],
        log: logging.Logger,
    ) -> None:
        """Prepare; ``serve`` answers a request, in a thread; ``may_accept`` is asked before each connection."""
        self.served = 0
        self._keepalive_s = keepalive_s
        self._script_name = script_name
        self._log = log
        self._poller = Poller()
        self.waker = self._poller.waker
        self._connections = ConnectionTable(self._poller, partial(self._step, self._ready), most=max_connections)
        self.newcomers = Newcomers(
            listeners,
            self._poller,
            may_accept=may_accept,
            has_room=self._connections.has_room,
            make_room=self._make_room,
            on_newcomer=partial(self._step, self._welcome),
        )
        self._body_reader = BodyReader(self._connections, bodies, self._hand_over)
        self._threads = RequestThreads(serve, threads)
        self._sweep_at = 0.0

    # What the worker asks for, in the main thread.

    def turn(self, timeout_s: float) -> None:
        """Do what is due, after waiting for it that long at most."""
        self.newcomers.look()
        longest_s = 0 if self._threads.refusals_wait else _POLL_BUDGET_S if self._body_reader.any_paused else _SWEEP_S
        self._poller.poll(min(timeout_s, longest_s))
        for connection in self._body_reader.paused():
            self._step(self._body_reader.read, connection)
        self._threads.refuse_some()
        if time.monotonic() >= self._sweep_at:
            self._sweep()

    def accepted(self) -> list[Exchange]:
        """Return the requests whose heads have come and whose answers are not made yet."""
        known = [*self._threads.working, *(each for each in self._connections if each.phase is Phase.BODY)]
        return [each.exchange for each in known]

    def close_idle(self, *, newcomers: bool = True) -> None:
        """Hang up on clients that have no request under way; with ``newcomers``, also on those that have made none."""
        phases = (Phase.IDLE, Phase.HEAD) if newcomers else (Phase.IDLE,)
        for connection in [each for each in self._connections if each.phase in phases]:
            self._close(connection)

    @property
    def busy(self) -> bool:
        """Tell whether there is any client to whom something is owed."""
        return bool(self._threads.working or self._connections)

    # A connection's life, phase by phase.

    def _welcome(self, connection: Connection) -> None:
        self._connections.enter(connection, Phase.HEAD, EVENT_READ, time.monotonic() + HEAD_TIMEOUT_S)
        self._read_head(connection)  # it is often there already

    def _ready(self, connection: Connection) -> None:
        if connection.closed:
            return  # by what came before it in the same turn
        match connection.phase:
            case Phase.HEAD | Phase.IDLE:
                self._read_head(connection)
            case Phase.BODY:
                self._body_reader.read(connection)
            case Phase.WORKING | Phase.SENDING:
                self._flush(connection)
            case Phase.LINGERING:
                if connection.receive(_PIECE) == b"":
                    self._close(connection)

    def _step(self, act: Callable[[Connection], None], connection: Connection) -> None:
        """Do one step of a connection's life; a bug in it costs this connection, not all others and the model."""
        try:
            act(connection)
        except Exception:  # noqa: BLE001 - logged, as at the edge of the application
            self._log.exception("A connection met a bug, and is closed.")
            self._threads.working.discard(connection)
            self._close(connection)

    def _read_head(self, connection: Connection) -> None:
        piece = connection.receive(_PIECE // 8)
        if piece is None:
            return
        if not piece:
            self._close(connection)
            return
        if connection.phase is Phase.IDLE:
            self._connections.enter(connection, Phase.HEAD, EVENT_READ, time.monotonic() + HEAD_TIMEOUT_S)
        connection.received += piece
        self._parse_head(connection)

    def _parse_head(self, connection: Connection) -> None:
        try:
            head = connection.take_head()
            if not head:
                return
            exchange = Exchange(head)
            environ = make_environ(
                exchange.request, client=connection.client, server=connection.server, script_name=self._script_name
            )
        except BadHttp as error:
            self._refuse(connection, error)
            return
        connection.begin(exchange, environ)
        if exchange.complete:
            self._hand_over(connection)
        elif (expected := self._body_reader.expected(exchange, environ)) is not None:
            self._body_reader.begin(connection, exchange, expected)
        else:
            with suppress(BadHttp):  # then the connection ends with the answer, as it does when more is to come
                exchange.receive(bytes(connection.received))
                connection.received.clear()
            exchange.take_body()
            self._hand_over(connection)

    def _refuse(self, connection: Connection, error: BadHttp) -> None:
        self._log.warning(
            "Invalid request from %s: %s", connection.client[0] if connection.client else "a socket", error
        )
        self._say(connection, protocol_error(error.status))
        self._linger(connection)

    def _say(self, connection: Connection, message: bytes) -> None:
        with suppress(OSError):
            connection.send(message, lambda: None)

    def _hand_over(self, connection: Connection) -> None:
        """Have a request that has come answered by who has the connection until `_answered`."""
        self._body_reader.forget(connection)
        connection.pipelined = connection.pipelined or bool(connection.received)
        if not self._threads.has_place_for(connection):
            self._close(connection)
            return
        self._connections.enter(connection, Phase.WORKING, 0, math.inf)
        self.served += 1
        self._threads.begin(connection).add_done_callback(
            lambda answer: self._poller.call_soon(partial(self._step, partial(self._answered, answer), connection))
        )

    def write_soon(self, connection: Connection) -> None:
        """Have what a thread could not send sent from here, as the client takes it."""
        self._poller.call_soon(partial(self._step, self._watch_writes, connection))

    def _watch_writes(self, connection: Connection) -> None:
        if connection.unsent and not connection.closed:
            self._connections.watch(connection, EVENT_WRITE)

    def _flush(self, connection: Connection) -> None:
        try:
            done = connection.flush()
        except OSError:
            self._close(connection)
            return
        if done and connection.phase is Phase.SENDING:
            self._next_request(connection)
        elif done:
            self._connections.watch(connection, 0)

    def _answered(self, answer: Future[None], connection: Connection) -> None:
        self._threads.working.discard(connection)
        if bug := answer.exception():
            self._log.error("A request met a bug that the application did not answer.", exc_info=bug)
            if connection.exchange.unanswered:
                self._say(connection, protocol_error(HTTPStatus.INTERNAL_SERVER_ERROR))
        if connection.incoming is not None:
            connection.incoming.drop()
            connection.incoming = None
        connection.environ = {}  # a client that idles keeps nothing of its last request in memory
        if connection.closed:
            return
        if not connection.unsent:
            self._next_request(connection)
            return
        self._connections.enter(connection, Phase.SENDING, EVENT_WRITE, time.monotonic() + SEND_TIMEOUT_S)
        for slow in to_hang_up_on(self._connections):
            self._close(slow)

    def _next_request(self, connection: Connection) -> None:
        exchange = connection.exchange
        if not exchange.reusable:
            self._linger(connection)
            return
        connection.received[:0] = exchange.left_over()
        connection.pipelined = bool(connection.received)
        if connection.received:
            self._connections.enter(connection, Phase.HEAD, EVENT_READ, time.monotonic() + HEAD_TIMEOUT_S)
            self._parse_head(connection)
        else:
            self._connections.enter(connection, Phase.IDLE, EVENT_READ, time.monotonic() + self._keepalive_s)

    def _linger(self, connection: Connection) -> None:
        """Close in two steps, as RFC 9112, section 9.6, asks: stop sending, then wait for the client to."""
        try:
            connection.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(connection)
        else:
            self._connections.enter(connection, Phase.LINGERING, EVENT_READ, time.monotonic() + _LINGER_S)

    def _sweep(self) -> None:
        now = time.monotonic()
        self._sweep_at = now + _SWEEP_S
        for connection in self._connections.expired(now):
            self._step(self._expire, connection)

    def _expire(self, connection: Connection) -> None:
        if connection.incoming is None:
            self._close(connection)
        else:
            self._body_reader.expire(connection)

    def _make_room(self) -> None:
        if connection := self._connections.least_useful():
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        self._body_reader.forget(connection)
        if connection.incoming is not None and connection not in self._threads.working:
            connection.incoming.drop()
        self._connections.remove(connection)
