"""Reading a request's body from the server: it ends at the deadline, and fails in this service's own terms."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.wrappers import Request

from captioning.deadline import Deadline
from captioning.errors import BodyTooLarge, CaptioningError, InvalidRequest


@contextmanager
def reading_body(request: Request, deadline: Deadline) -> Iterator[None]:
    """Guard the code that reads the body.

    Gunicorn waits for a body as long as the client likes, so at the deadline the connection's receiving side is
    shut from outside, which ends the read; the answer can still be sent.

    Raises:
        BodyTooLarge: it is over the limit that the request carries (``max_content_length``).
        DeadlineExceeded: it did not arrive in time.
        InvalidRequest: the client went away, or broke HTTP's framing.
    """
    connection: socket.socket | None = request.environ.get("gunicorn.socket")
    timer = threading.Timer(deadline.remaining(), _shut, [connection])
    timer.daemon = True
    timer.start()
    try:
        yield
        deadline.remaining()  # a body that was cut at the deadline can look whole
    except RequestEntityTooLarge as error:
        raise BodyTooLarge(_limit_sentence(request)) from error
    except (ParseException, ClientDisconnected, OSError) as error:
        deadline.remaining()
        raise InvalidRequest("The request body ended early or is badly framed.", detail=repr(error)) from error
    except CaptioningError:
        deadline.remaining()  # or malformed
        raise
    finally:
        timer.cancel()


def _shut(connection: socket.socket | None) -> None:
    if connection is not None:
        with suppress(OSError):  # the client has gone already
            connection.shutdown(socket.SHUT_RD)


def _limit_sentence(request: Request) -> str | None:
    limit = request.max_content_length
    return None if limit is None else f"The request body is over the limit of {limit:,} bytes."
