"""A Redis server's answers, each read within so many seconds and bytes, whatever comes."""

from __future__ import annotations

import socket
import ssl
import time

import redis

_MAX_BYTES = 16_384
_PIECE = 4096


class BoundedParser:
    """Read RESP2 (https://redis.io/docs/latest/develop/reference/protocol-spec/), as far as GET and SET need it.

    redis-py takes a parser for its connections. Its own waits anew for each byte and reads as much as is sent.
    """

    def __init__(self, socket_read_size: int) -> None:
        self._socket: socket.socket | None = None  # TLS is spoken by a subclass
        self._seconds = 0.0
        self._received = b""

    def on_connect(self, connection: redis.Connection) -> None:
        """Begin to read from a connection."""
        self._socket = connection._sock
        self._seconds = connection.socket_timeout or 0.0
        self._received = b""

    def on_disconnect(self) -> None:
        """Let go of the connection."""
        self._socket = None

    def can_read(self, timeout: float) -> bool:
        """Tell whether there is something to read, the connection's end included."""
        if self._received or self._socket is None:
            return True
        self._socket.settimeout(timeout)
        try:
            self._received = self._socket.recv(1)
        except (TimeoutError, BlockingIOError, ssl.SSLWantReadError):
            return False
        return True

    def read_response(self, *, disable_decoding: bool, timeout: object) -> bytes | redis.ResponseError | None:
        """Return one answer.

        Raises:
            redis.InvalidResponse: it is too long, or no answer to GET and SET.
            redis.ConnectionError: the server closed the connection.
            TimeoutError: it did not arrive in time.
        """
        until = time.monotonic() + self._seconds
        line = self._take_line(until)
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b"-":
            return redis.ResponseError(rest.decode(errors="replace"))
        if kind == b"$" and rest == b"-1":
            return None
        if kind == b"$" and rest.isdigit() and len(rest) < 6:
            return self._take(int(rest) + 2, until)[:-2]
        raise redis.InvalidResponse("not an answer to GET or SET")

    def _take_line(self, until: float) -> bytes:
        while b"\r\n" not in self._received:
            self._receive(until)
        line, _, self._received = self._received.partition(b"\r\n")
        return line

    def _take(self, size: int, until: float) -> bytes:
        while len(self._received) < size:
            self._receive(until)
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    def _receive(self, until: float) -> None:
        seconds = until - time.monotonic()
        if seconds <= 0 or self._socket is None:
            raise TimeoutError
        if len(self._received) > _MAX_BYTES:
            raise redis.InvalidResponse("longer than any answer that is asked for")
        self._socket.settimeout(seconds)
        piece = self._socket.recv(_PIECE)
        if not piece:
            raise redis.ConnectionError("it closed the connection")
        self._received += piece
