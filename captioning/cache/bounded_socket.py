"""A socket that bounds what a server answers, in bytes and in seconds."""

from __future__ import annotations

import math
import socket
import time


class AnswerTooLong(ValueError):
    """More bytes than an answer may have."""


class BoundedSocket:
    """A connected socket that reads so many bytes, for so many seconds in all, after each command.

    It has the methods that redis-py calls. Their own timeouts begin anew with each byte that comes, and redis-py keeps
    as much as is sent.
    """

    def __init__(self, connected: socket.socket, *, timeout_s: float, max_bytes: int) -> None:
        self._socket = connected
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._may_wait = True
        self._deadline = -math.inf
        self._bytes_left = 0
        self.shutdown = connected.shutdown
        self.close = connected.close

    def settimeout(self, seconds: float | None) -> None:
        """Let the next call wait, or with 0 only ask whether there is something to read."""
        self._may_wait = seconds != 0

    def sendall(self, data: bytes) -> None:
        """Send a command, and count its answer from here on."""
        self._deadline = time.monotonic() + self._timeout_s
        self._bytes_left = self._max_bytes
        self._socket.settimeout(self._timeout_s)
        self._socket.sendall(data)

    def recv(self, size: int) -> bytes:
        """Receive a piece of the answer.

        Raises:
            TimeoutError: the answer is not complete in time.
            AnswerTooLong: it has more bytes than it may.
        """
        seconds = self._deadline - time.monotonic() if self._may_wait else 0.0
        if seconds < 0:
            raise TimeoutError
        self._socket.settimeout(seconds)
        received = self._socket.recv(size)
        self._bytes_left -= len(received)
        if self._bytes_left < 0:
            raise AnswerTooLong
        return received
