"""From a request's headers and connection to the moment by which its answer is wanted, and by whom."""

from __future__ import annotations

import socket
import time
from functools import partial

from werkzeug.wrappers import Request

from captioning.deadline import Deadline
from captioning.errors import InvalidParameter
from captioning.web.quoting import shown

ARRIVED_AT = "captioning.arrived_at"
"""The WSGI environ's key for the monotonic time at which the headers had arrived."""

CONNECTION = "captioning.connection"
"""The WSGI environ's key for the client's socket, where the server gives it."""

_HEADER = "X-Request-Timeout-Ms"


def request_deadline(request: Request, timeout_s: float) -> Deadline:
    """Make the deadline: from the request's arrival, and sooner where its caller asks for that.

    Raises:
        InvalidParameter: the caller's timeout is no number of milliseconds.
    """
    connection: socket.socket | None = request.environ.get(CONNECTION)
    return Deadline(
        request.environ.get(ARRIVED_AT, time.monotonic()) + min(timeout_s, _wanted_s(request)),
        abandoned=partial(_has_hung_up, connection) if connection else lambda: False,
    )


def _wanted_s(request: Request) -> float:
    value = request.headers.get(_HEADER)
    if value is None:
        return float("inf")
    if not (value.isascii() and value.isdigit() and len(value) < 20 and int(value)):
        raise InvalidParameter(f"{_HEADER} is {shown(value)}; it must be a whole number of milliseconds above 0.")
    return int(value) / 1000


def _has_hung_up(connection: socket.socket) -> bool:
    """Tell whether the client has closed its side.

    One that still reads, having closed only its sending half, counts as gone too, as in nginx: the two look the same.
    """
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
