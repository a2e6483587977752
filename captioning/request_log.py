"""What every answer carries and every request leaves in the log."""

from __future__ import annotations

import logging
import re
import uuid

from flask import Flask, Response, g, request

log = logging.getLogger("captioning.requests")

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


def identify_requests(app: Flask) -> None:
    """Give each request an id and its answer the headers that all have, and log it."""

    @app.before_request
    def take_request_id() -> None:
        given = request.headers.get("X-Request-Id", "")
        g.request_id = given if _SANE_REQUEST_ID.fullmatch(given) else uuid.uuid4().hex

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.request_id
        response.headers["X-Content-Type-Options"] = "nosniff"
        if times := g.get("times"):
            response.headers["Server-Timing"] = ", ".join(
                f"{stage};dur={seconds * 1000:.1f}" for stage, seconds in times.seconds.items()
            )
            if times.cache:
                response.headers["X-Cache"] = times.cache
        _log_request(response)
        return response


def _log_request(response: Response) -> None:
    """Write one line a request; health checks, which come every few seconds, only at DEBUG."""
    level = logging.DEBUG if request.path in ("/healthz", "/readyz") else logging.INFO
    error = g.get("error")
    log.log(
        level,
        "%s %s %r -> %d%s [%s]",
        g.request_id,
        request.method,
        request.path,
        response.status_code,
        f" {error.code}: {str(error)!r}" if error else "",
        response.headers.get("Server-Timing", ""),
    )
