"""All connections of one worker: what each is at, until when, and what wakes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from captioning.server.connection import Connection, Phase
from captioning.server.poller import Poller


class ConnectionTable:
    """The connections, in the order in which they entered their phase."""

    def __init__(self, poller: Poller, on_ready: Callable[[Connection], None], *, most: int) -> None:
        """Begin with none; ``on_ready`` is called with one for whose events `enter` or `watch` wait."""
        self._poller = poller
        self._on_ready = on_ready
        self._most = most
        self._connections: dict[Connection, None] = {}

    def __iter__(self) -> Iterator[Connection]:
        return iter(self._connections)

    def __len__(self) -> int:
        return len(self._connections)

    def has_room(self) -> bool:
        """Tell whether there may be one more."""
        return len(self) < self._most

    def enter(self, connection: Connection, phase: Phase, events: int, expires_at: float) -> None:
        """Put a connection into a phase that ends at ``expires_at``, on the monotonic clock, and wait for events."""
        connection.phase = phase
        connection.expires_at = expires_at
        self._connections.pop(connection, None)
        self._connections[connection] = None
        self.watch(connection, events)

    def watch(self, connection: Connection, events: int) -> None:
        """Wait for these events of a connection, and for no others."""
        self._poller.watch(connection, events, partial(self._on_ready, connection))

    def remove(self, connection: Connection) -> None:
        """Forget a connection, and hang up."""
        self.watch(connection, 0)
        self._connections.pop(connection, None)
        connection.close()

    def expired(self, now: float) -> list[Connection]:
        """Return those whose phase should have ended by ``now``."""
        return [each for each in self if each.expires_at <= now]

    def least_useful(self) -> Connection | None:
        """Return the one that has been in the least useful phase for longest; none if threads have them all."""
        connection = min(self, key=lambda each: each.phase, default=None)
        return connection if connection is not None and connection.phase is not Phase.WORKING else None
