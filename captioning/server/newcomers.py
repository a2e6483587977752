"""Clients that connect: taken while there is room for them, and left to others where those serve them better."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable
from functools import partial

from captioning.server.connection import Connection
from captioning.server.poller import Poller

_ACCEPT_AT_ONCE = 64


class Newcomers:
    """The sockets on which clients connect."""

    def __init__(
        self,
        listeners: Iterable[socket.socket],
        poller: Poller,
        *,
        may_accept: Callable[[], bool],
        has_room: Callable[[], bool],
        make_room: Callable[[], None],
        on_newcomer: Callable[[Connection], None],
    ) -> None:
        """Prepare; ``may_accept`` is asked before each connection, ``make_room`` called where there is none for it."""
        self._listeners = list(listeners)
        self._listening = False
        self._poller = poller
        self._may_accept = may_accept
        self._has_room = has_room
        self._make_room = make_room
        self._on_newcomer = on_newcomer

    def look(self) -> None:
        """Wait for clients from now on if they may be accepted and there is room, else do not."""
        if not self._has_room():
            self._make_room()
        self._listen(bool(self._listeners) and self._has_room() and self._may_accept())

    def stop(self) -> None:
        """Leave them to whoever else listens."""
        self._listen(False)
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def _listen(self, listening: bool) -> None:
        if listening == self._listening:
            return
        self._listening = listening
        for listener in self._listeners:
            if listening:
                self._poller.listen(listener, partial(self._accept, listener))
            else:
                self._poller.stop_listening(listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPT_AT_ONCE):
            if not self._may_accept():  # a sibling that got ready since is told to callers, who come at once
                return
            try:
                client, address = listener.accept()
            except OSError as error:  # most often, a sibling was faster or there are no more
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._make_room()
                return
            self._on_newcomer(Connection(client, address))
            if not self._has_room():
                self._make_room()
