"""What wakes the main loop: sockets that are ready, and threads that ask for something."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from selectors import EVENT_READ, DefaultSelector

from captioning.server.connection import Connection


class Poller:
    """What is waited for, each with what is called in the main thread once it is there."""

    def __init__(self) -> None:
        self._selector = DefaultSelector()
        self._callbacks: deque[Callable[[], None]] = deque()
        self._woken, self.waker = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self.waker, False)
        self._selector.register(self._woken, EVENT_READ, self._run_callbacks)

    def poll(self, timeout_s: float) -> None:
        """Call what is due, after waiting for it that long at most."""
        for key, _ in self._selector.select(timeout_s):
            key.data()

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Have something called in the main thread; to be used by other threads."""
        self._callbacks.append(callback)
        with suppress(BlockingIOError):  # it is full of reasons to wake up
            os.write(self.waker, b"x")

    def listen(self, listener: socket.socket, on_newcomer: Callable[[], None]) -> None:
        """Wait for clients that connect."""
        listener.setblocking(False)
        self._selector.register(listener, EVENT_READ, on_newcomer)

    def stop_listening(self, listener: socket.socket) -> None:
        """Leave them to others, or waiting."""
        self._selector.unregister(listener)

    def watch(self, connection: Connection, events: int, on_ready: Callable[[], None]) -> None:
        """Wait for these events of a client, and for no others; 0 is for none."""
        if events == connection.events:
            return
        if not events:
            self._selector.unregister(connection)
        elif connection.events:
            self._selector.modify(connection, events, on_ready)
        else:
            self._selector.register(connection, events, on_ready)
        connection.events = events

    def _run_callbacks(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._woken, 4096)
        while self._callbacks:
            self._callbacks.popleft()()
