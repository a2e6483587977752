"""The answer to HTTP that reaches no route, in the form of all other errors."""

from __future__ import annotations

import uuid
from http import HTTPStatus

from captioning.errors import CaptioningError, InternalError, InvalidRequest, NotFound
from captioning.web.answers import ErrorAnswer

_SENTENCES = {
    HTTPStatus.BAD_REQUEST: "The request is not valid HTTP/1.1.",
    HTTPStatus.NOT_FOUND: "There is nothing at this path: all that is here lies below SCRIPT_NAME.",
    HTTPStatus.REQUEST_URI_TOO_LONG: "The request's first line is too long; options may also stand in a form or JSON.",
    HTTPStatus.EXPECTATION_FAILED: "The only expectation that is met is 100-continue.",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "The request's headers are too large.",
    HTTPStatus.NOT_IMPLEMENTED: "The only transfer coding that is understood is chunked.",
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: "The service speaks HTTP/1.1 and HTTP/1.0.",
    HTTPStatus.INTERNAL_SERVER_ERROR: InternalError.sentence,
}


def protocol_error(status: HTTPStatus) -> bytes:
    """Return a whole HTTP message that refuses the request and ends the connection."""
    request_id = uuid.uuid4().hex
    known: dict[int, type[CaptioningError]] = {404: NotFound, 500: InternalError}
    code = known.get(status, InvalidRequest).code
    answer = ErrorAnswer(error=_SENTENCES[status], code=code, request_id=request_id)
    body = answer.model_dump_json(by_alias=True).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nX-Request-Id: {request_id}\r\n\r\n"
    )
    return head.encode() + body
