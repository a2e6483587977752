"""Every failure, our own and others', as JSON."""

from __future__ import annotations

import logging
import math

from flask import Flask, Response, g, jsonify
from werkzeug.exceptions import HTTPException

from captioning.errors import CaptioningError, InternalError, InvalidRequest, MethodNotAllowed, NotFound
from captioning.web.answers import ErrorAnswer

log = logging.getLogger("captioning.errors")


def answer_errors(app: Flask) -> None:
    """Answer what the routes raise; only a bug, which is anything unknown, is logged with its traceback."""

    @app.errorhandler(CaptioningError)
    def answer(error: CaptioningError) -> tuple[Response, int]:
        g.error = error
        told = ErrorAnswer(error=error.message, code=error.code, request_id=g.request_id)
        response = jsonify(told.model_dump(by_alias=True))
        if error.retry_after_s is not None:
            response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
        if error.status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        return response, error.status

    @app.errorhandler(HTTPException)
    def answer_http(error: HTTPException) -> tuple[Response, int]:
        known: dict[int | None, type[CaptioningError]] = {404: NotFound, 405: MethodNotAllowed}
        response, status = answer(known.get(error.code, InvalidRequest)())
        response.headers.extend((name, value) for name, value in error.get_headers() if name == "Allow")
        return response, status

    @app.errorhandler(InternalError)
    @app.errorhandler(Exception)
    def answer_bug(error: Exception) -> tuple[Response, int]:
        return answer(as_captioning_error(error, g.request_id))


def as_captioning_error(error: BaseException, request_id: str) -> CaptioningError:
    """Return a failure of the tree as it is; log any other, which is a bug, and return what callers are told of it."""
    if isinstance(error, CaptioningError) and not isinstance(error, InternalError):
        return error
    cause = error.__cause__ or error  # what several requests met is the cause of an error of each
    log.error("Request %s met a bug.", request_id, exc_info=cause, extra={"request_id": request_id})
    return InternalError()
