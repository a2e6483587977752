"""A socket that a stranger's server cannot keep busy for ever, neither by dripping nor by sending without end."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from captioning.deadline import Deadline
from captioning.errors import ImageFetchFailed

_T = TypeVar("_T")


class LimitedSocket(socket.socket):
    """A socket whose reads end with the deadline or its caller, and after a number of bytes in all.

    requests' own timeout starts anew with each read, so a byte now and then keeps a fetch alive for
    ever; and urllib3 reads a chunk whose size is -1 to its end, at once.
    """

    _deadline: Deadline
    _bytes_left: int

    def limit(self, deadline: Deadline, max_bytes: int) -> None:
        """Set what ``recv_into``, through which http.client reads everything, may take from now on."""
        self._deadline = deadline
        self._bytes_left = max_bytes
        self.settimeout(deadline.remaining())  # for what is sent

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        """Read as ``socket.recv_into`` does, within the limits."""
        received = polled(self, self._deadline, partial(super().recv_into, *args, **kwargs))
        self._bytes_left -= received
        if self._bytes_left < 0:
            raise ImageFetchFailed("The image's server sent far more than an image.")
        return received


def polled(connection: socket.socket, deadline: Deadline, step: Callable[[], _T]) -> _T:
    """Do what may wait for the other side, but not beyond the deadline, nor for a caller that has gone."""
    while True:
        connection.settimeout(deadline.poll_s())
        with suppress(TimeoutError):
            return step()


class LimitedTlsSocket(LimitedSocket, ssl.SSLSocket):
    """The same over TLS, for ``SSLContext.sslsocket_class``."""
