"""One client's connection: what has come of its next request, and what is yet to be sent to it."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from captioning.server.exchange import Exchange, head_length
from captioning.server.incoming_body import IncomingBody
from captioning.server.wsgi import Environ

MAX_WAITING_BYTES = 65_536
"""How far a thread may get ahead of a client that reads a streamed answer."""

STREAM_PATIENCE_S = 10.0
"""How long, over a whole answer, a thread waits for such a client in all."""

# The kernel would keep megabytes for each client that does not read, and counts them as the container's memory.
_KERNEL_SEND_BYTES = 32_768


class Phase(IntEnum):
    """What a connection is at; those that come first make room first when there are too many."""

    LINGERING = 0  # answered and shut; the client has yet to hang up
    SENDING = 1  # the answer is made, the client has yet to read it
    HEAD = 2  # the head of a request is coming
    BODY = 3  # its body is coming
    IDLE = 4  # between two requests
    WORKING = 5  # a thread has it


class Connection:
    """One client, read and written without ever waiting for it; threads may only call `send`."""

    exchange: Exchange
    """The request under way, from its head's arrival to its answer's end."""

    environ: Environ
    """The same request as WSGI has it."""

    def __init__(self, sock: socket.socket, client: Any) -> None:
        """Take over an accepted socket; ``client`` is its address."""
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_SEND_BYTES)
        self.sock = sock
        self.client = client
        self.server = sock.getsockname()
        self.phase = Phase.HEAD
        self.expires_at = 0.0
        self.events = 0
        self.received = bytearray()
        self.pipelined = False
        self.incoming: IncomingBody | None = None
        self.unsent = bytearray()
        self.closed = False
        self._searched = 0
        self._sending = threading.Condition()
        self._patience_s = STREAM_PATIENCE_S

    def fileno(self) -> int:
        """Return the descriptor, for a selector."""
        return self.sock.fileno()

    def readable_bytes(self) -> int:
        """Return how many bytes can be read at once; 0 when the client has hung up."""
        (size,) = struct.unpack("i", fcntl.ioctl(self.sock, termios.FIONREAD, bytes(4)))
        return int(size)

    def receive(self, size: int) -> bytes | None:
        """Return what has come, ``b""`` when no more will, or none if there is nothing yet."""
        try:
            return self.sock.recv(size)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def begin(self, exchange: Exchange, environ: Environ) -> None:
        """Have a request under way, whose answer may take as long to be read as any."""
        self.exchange = exchange
        self.environ = environ
        self._patience_s = STREAM_PATIENCE_S

    def take_head(self) -> bytes:
        """Return the next request's head once it is whole, else ``b""``.

        Raises:
            BadHttp: it will never be.
        """
        if not self._searched and self.received.startswith(b"\r\n"):
            del self.received[:2]  # one empty line before a request is ignored (RFC 9112, section 2.2)
        length = head_length(self.received, self._searched)
        self._searched = 0 if length else max(0, len(self.received) - 3)
        head = bytes(self.received[:length])
        del self.received[:length]
        return head

    def send(self, data: bytes, wake: Callable[[], None]) -> None:
        """Send what the client takes now; the loop, told by ``wake``, sends the rest. Called by the request's thread.

        It waits only where much of what was sent before is still unread, as in a long streamed answer.

        Raises:
            OSError: the client has gone, or does not read.
        """
        with self._sending:
            started = time.monotonic()
            self._sending.wait_for(self._has_room, timeout=self._patience_s)
            self._patience_s -= time.monotonic() - started
            if self.closed or not self._has_room():
                raise BrokenPipeError
            if not self.unsent:
                data = data[self._send_some(data) :]
            if data:
                self.unsent += data
                wake()

    def flush(self) -> bool:
        """Send more of what waits; tell whether nothing is left. Called by the loop.

        Raises:
            OSError: the client has gone.
        """
        with self._sending:
            del self.unsent[: self._send_some(self.unsent)]
            self._sending.notify_all()
            return not self.unsent

    def close(self) -> None:
        """Hang up."""
        with self._sending:
            self.closed = True
            self.unsent.clear()
            self.sock.close()
            self._sending.notify_all()

    def _has_room(self) -> bool:
        return self.closed or len(self.unsent) <= MAX_WAITING_BYTES

    def _send_some(self, data: bytes | bytearray) -> int:
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0


def has_hung_up(connection: socket.socket) -> bool:
    """Tell whether the client has closed its side.

    One that still reads, having closed only its sending half, counts as gone too, as in nginx: the two look the same.
    """
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
