"""The answer to HTTP that cannot be parsed, in the form of all other errors."""

from __future__ import annotations

import uuid
from http import HTTPStatus

from gunicorn.http import errors as gunicorn_errors

from captioning.errors import InvalidRequest
from captioning.web.answers import ErrorAnswer

_SENTENCES = {
    HTTPStatus.BAD_REQUEST: "The request is not valid HTTP/1.1.",
    HTTPStatus.REQUEST_URI_TOO_LONG: "The request's first line is too long; options may also stand in a form or JSON.",
    HTTPStatus.EXPECTATION_FAILED: "The only expectation that is met is 100-continue.",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "The request's headers are too large.",
    HTTPStatus.NOT_IMPLEMENTED: "The only transfer coding that is understood is chunked.",
}


def status_of(error: gunicorn_errors.ParseException) -> HTTPStatus:
    """Return the status that HTTP has for what gunicorn found (RFC 9110, section 15; RFC 6585, section 5)."""
    match error:
        case gunicorn_errors.LimitRequestLine():
            return HTTPStatus.REQUEST_URI_TOO_LONG
        case gunicorn_errors.LimitRequestHeaders():
            return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        case gunicorn_errors.ExpectationFailed():
            return HTTPStatus.EXPECTATION_FAILED
        case gunicorn_errors.UnsupportedTransferCoding():
            return HTTPStatus.NOT_IMPLEMENTED
        case _:
            return HTTPStatus.BAD_REQUEST


def refusal(status: HTTPStatus) -> bytes:
    """Return a whole HTTP message that refuses the request and ends the connection."""
    request_id = uuid.uuid4().hex
    answer = ErrorAnswer(error=_SENTENCES[status], code=InvalidRequest.code, request_id=request_id)
    body = answer.model_dump_json(by_alias=True).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nX-Request-Id: {request_id}\r\n\r\n"
    )
    return head.encode() + body
