"""From the server's stream to a request's body, within its limits, in this service's own terms."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected
from werkzeug.wrappers import Request
from werkzeug.wsgi import get_input_stream

from captioning.deadline import Deadline
from captioning.errors import BodyTooLarge, InvalidRequest
from captioning.limits import ByteHold
from captioning.web.caption_request import parsing_memory

_PIECE = 65_536


def read_body(request: Request, *, max_bytes: int, deadline: Deadline, hold: ByteHold) -> bytes:
    """Read the whole body; ``hold`` grows with what has really arrived, so a slow sender holds little, and then by
    what parsing it takes.

    Raises:
        BodyTooLarge: its length, or what arrives without one, is over ``max_bytes``.
        DeadlineExceeded: it did not arrive in time.
        InvalidRequest: the client went away, or broke HTTP's framing.
    """
    too_large = BodyTooLarge(f"The request body is over the limit of {max_bytes:,} bytes.")
    expected = request.content_length
    if expected is not None and expected > max_bytes:
        raise too_large
    body = io.BytesIO()
    try:
        with _receiving_until(deadline, request.environ.get("gunicorn.socket")):
            stream = get_input_stream(request.environ)
            while piece := stream.read(_PIECE):
                if body.tell() + len(piece) > max_bytes:
                    raise too_large
                hold.grow(len(piece), deadline)
                body.write(piece)
    except (ParseException, ClientDisconnected, OSError) as error:
        deadline.remaining()  # what breaks after the deadline broke because of it
        raise InvalidRequest("The request body is badly framed.", detail=repr(error)) from error
    deadline.remaining()
    if expected is not None and body.tell() < expected:
        raise InvalidRequest(f"The request body ended after {body.tell():,} of {expected:,} bytes.")
    received = body.getvalue()
    parsing = parsing_memory(request, received)
    if hold.size + parsing > hold.largest:
        raise BodyTooLarge(
            f"Reading this request body takes {hold.size + parsing:,} bytes of memory, over the limit of "
            f"{hold.largest:,}; send the picture as multipart/form-data."
        )
    hold.grow(parsing, deadline)
    return received


@contextmanager
def _receiving_until(deadline: Deadline, connection: socket.socket | None) -> Iterator[None]:
    """Shut the connection's receiving side at the deadline; the answer can still be sent.

    Gunicorn waits for a body as long as the client likes, and a timeout on the socket would start anew with each byte.
    """
    timer = threading.Timer(deadline.remaining(), _shut, [connection])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _shut(connection: socket.socket | None) -> None:
    if connection is not None:
        with suppress(OSError):  # the client has gone already
            connection.shutdown(socket.SHUT_RD)
