"""Bodies on their way in, of all connections: each is read as far as the budget of bytes has room for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from selectors import EVENT_READ

from captioning.server.connection import Connection, Phase
from captioning.server.connection_table import ConnectionTable
from captioning.server.exchange import Exchange
from captioning.server.incoming_body import IncomingBody
from captioning.server.wsgi import Environ
from captioning.web.body import BodyRules, ExpectedBody

_ASK_AT_ONCE = 64


class BodyReader:
    """The reader of bodies, and those of them that it does not read for want of bytes in the budget."""

    def __init__(self, connections: ConnectionTable, rules: BodyRules, on_end: Callable[[Connection], None]) -> None:
        """Prepare; ``on_end`` is called with the connection whose body is whole, or has failed."""
        self._connections = connections
        self._rules = rules
        self._on_end = on_end
        self._paused: dict[Connection, None] = {}  # in the order in which they are asked again

    @property
    def any_paused(self) -> bool:
        """Tell whether any body is not read for want of room."""
        return bool(self._paused)

    def expected(self, exchange: Exchange, environ: Environ) -> ExpectedBody | None:
        """Return what is expected of a request's body; none if the request is answered without it."""
        if (exchange.content_length or 0) > self._rules.max_bytes:
            return None
        return self._rules.expected(environ)

    def begin(self, connection: Connection, exchange: Exchange, expected: ExpectedBody) -> None:
        """Ask for a body, and read what has come of it."""
        if exchange.waits_to_be_asked:
            with suppress(OSError):
                connection.send(exchange.go_on(), lambda: None)
        connection.incoming = incoming = IncomingBody(exchange, self._rules, expected)
        self._connections.enter(connection, Phase.BODY, EVENT_READ, incoming.expires_at)
        self.read(connection)

    def read(self, connection: Connection) -> None:
        """Read more of a body; without room for it, wait for none of its events."""
        incoming = connection.incoming
        assert incoming is not None
        while not incoming.is_whole and (
            room := incoming.room_for(len(connection.received) or connection.readable_bytes())
        ):
            if connection in self._paused:
                del self._paused[connection]
                incoming.resume()
                self._connections.watch(connection, EVENT_READ)
            piece = bytes(connection.received[:room]) or connection.receive(room)
            del connection.received[:room]
            if piece is None:
                incoming.leave_room()
                connection.expires_at = incoming.expires_at
                return
            incoming.receive(piece)
        if incoming.is_whole and incoming.has_room_to_parse():
            self._on_end(connection)
            return
        self._paused[connection] = None
        incoming.pause()
        connection.expires_at = incoming.expires_at
        self._connections.watch(connection, 0)

    def paused(self) -> list[Connection]:
        """Return some whose bodies are not read for want of room: there may be room by now, for a later one too."""
        some = list(islice(self._paused, _ASK_AT_ONCE))
        for connection in some:
            self._paused[connection] = self._paused.pop(connection)  # behind the others, who are next
        return some

    def expire(self, connection: Connection) -> None:
        """End the wait for a body if its time is over, else say until when there is time."""
        incoming = connection.incoming
        assert incoming is not None
        if incoming.is_too_late(time.monotonic()):
            self._on_end(connection)
        else:
            connection.expires_at = incoming.expires_at

    def forget(self, connection: Connection) -> None:
        """Read no more of a connection's body."""
        self._paused.pop(connection, None)
