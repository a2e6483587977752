"""From the server to a request's body, within its limits, in this service's own terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from werkzeug.exceptions import ClientDisconnected
from werkzeug.wrappers import Request
from werkzeug.wsgi import get_input_stream

from captioning.byte_budget import ByteBudget, ByteHold
from captioning.deadline import Deadline
from captioning.errors import BodyTooLarge, CaptioningError, InvalidRequest, Overloaded
from captioning.web.admission import Admission
from captioning.web.caption_request import parsing_memory
from captioning.web.forms import FORM_TYPES
from captioning.web.request_deadline import request_deadline

ARRIVED_BODY = "captioning.body"
"""The WSGI environ's key for an `ArrivedBody`, where the server collects bodies before it calls the application."""


@dataclass(frozen=True)
class ArrivedBody:
    """A body that the server has collected, or why it has not, with the bytes that it holds of the budget."""

    content: bytes
    hold: ByteHold
    failure: CaptioningError | None = None


@dataclass(frozen=True)
class ExpectedBody:
    """A body that the application will read."""

    deadline_at: float
    """By when, on the monotonic clock, it must be there."""

    is_hopeless: Callable[[bytes], bool] = lambda body: False
    """Tells whether the request is refused now for want of permits, whatever else there is to say of the body."""


@dataclass(frozen=True)
class BodyRules:
    """What a server asks before and while it collects a body."""

    max_bytes: int
    budget: ByteBudget
    expected: Callable[[dict[str, Any]], ExpectedBody | None]
    """Tells from a WSGI environ what body the application wants.

    None where the application would not read it, but answers by the head alone: then the body is not waited for.
    """


def read_body(request: Request, *, max_bytes: int, deadline: Deadline, hold: ByteHold) -> bytes:
    """Return the whole body; ``hold`` grows with what has really arrived, and then by what parsing it takes.

    Raises:
        BodyTooLarge: its length, or what arrives without one, is over ``max_bytes``.
        DeadlineExceeded, Overloaded: it did not arrive in time, for the client or for want of bytes in the budget.
        InvalidRequest: the client went away, or broke HTTP's framing.
        Overloaded: parsing it takes more than the server set aside, and that is not there now.
    """
    too_large = BodyTooLarge(f"The request body is over the limit of {max_bytes:,} bytes.")
    if (request.content_length or 0) > max_bytes:
        raise too_large
    arrived: ArrivedBody | None = request.environ.pop(ARRIVED_BODY, None)
    if arrived is not None:
        hold.take_over(arrived.hold)
        if arrived.failure is not None:
            raise arrived.failure
        body = arrived.content
    else:
        body = _read(request, max_bytes + 1)
        if len(body) > max_bytes:
            raise too_large
        hold.grow(len(body), deadline)
    deadline.remaining()
    parsing = parsing_memory(request, body)
    if len(body) + parsing > hold.largest:
        raise BodyTooLarge(
            f"Reading this request body takes {len(body) + parsing:,} bytes of memory, over the limit of "
            f"{hold.largest:,}; send the picture as multipart/form-data."
        )
    missing = len(body) + parsing - hold.size
    if arrived is None:
        hold.grow(missing, deadline)
    elif missing > 0 and not hold.try_grow(missing):  # a thread that waited could keep out the one it waits for
        raise Overloaded(detail="bytes of request bodies", retry_after_s=1)
    return body


def parsing_bound(content_type: str, size: int) -> int:
    """Bound what parsing a body of ``size`` bytes takes beside it, for ordinary bodies; see `parsing_memory`."""
    mimetype = content_type.partition(";")[0].strip().lower()
    if mimetype.endswith("json"):
        return 4 * size + 4_096
    return 3 * size if mimetype in FORM_TYPES else 0


def _read(request: Request, max_bytes: int) -> bytes:
    """Read the body from a server that collects none, such as Flask's own."""
    try:
        body = get_input_stream(request.environ).read(max_bytes)
    except (ClientDisconnected, OSError) as error:
        raise InvalidRequest("The request body is badly framed.", detail=repr(error)) from error
    if len(body) < (request.content_length or 0):
        raise InvalidRequest(f"The request body ended after {len(body):,} of {request.content_length:,} bytes.")
    return body


def expected_body(
    admission: Admission, paths: Mapping[str, bool], timeout_s: float, environ: dict[str, Any]
) -> ExpectedBody | None:
    """Return what is expected of a request's body; none if its head is enough for an answer.

    The body is read where the request is a POST to one of the ``paths``, and passes what is checked before; each path
    tells whether its JSON names a single picture.
    """
    request = Request(environ)
    if request.method != "POST" or request.path not in paths:
        return None
    try:
        permits = admission.api_keys.permits_of(admission.api_keys.check(request))
        admission.check(environ)
        deadline = request_deadline(request, timeout_s)
    except CaptioningError:  # the application meets it again as it answers
        return None
    names_picture = paths[request.path] and request.is_json
    return ExpectedBody(deadline.at, partial(admission.is_hopeless, permits, names_picture=names_picture))
