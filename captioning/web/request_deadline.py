"""From a request's headers and connection to the moment by which its answer is wanted, and by whom."""

from __future__ import annotations

import time
from collections.abc import Callable

from werkzeug.wrappers import Request

from captioning.deadline import Deadline
from captioning.errors import InvalidParameter
from captioning.web.quoting import shown

ARRIVED_AT = "captioning.arrived_at"
"""The WSGI environ's key for the monotonic time at which the headers had arrived."""

ABANDONED = "captioning.abandoned"
"""The WSGI environ's key for what tells, when it is called, whether the client has gone, where the server knows."""

_HEADER = "X-Request-Timeout-Ms"


def request_deadline(request: Request, timeout_s: float) -> Deadline:
    """Make the deadline: from the request's arrival, and sooner where its caller asks for that.

    Raises:
        InvalidParameter: the caller's timeout is no number of milliseconds.
    """
    abandoned: Callable[[], bool] = request.environ.get(ABANDONED, lambda: False)
    return Deadline(
        request.environ.get(ARRIVED_AT, time.monotonic()) + min(timeout_s, _wanted_s(request)),
        abandoned=abandoned,
    )


def _wanted_s(request: Request) -> float:
    value = request.headers.get(_HEADER)
    if value is None:
        return float("inf")
    if not (value.isascii() and value.isdigit() and len(value) < 20 and int(value)):
        raise InvalidParameter(f"{_HEADER} is {shown(value)}; it must be a whole number of milliseconds above 0.")
    return int(value) / 1000
