"""What every answer carries and every request leaves in the log."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, g, request

from captioning.trace import STAGES, Trace
from captioning.web.api_keys import api_key_name
from captioning.web.request_deadline import ARRIVED_AT
from captioning.web.trace_context import trace_fields

log = logging.getLogger("captioning.requests")

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_ASKED_ALL_THE_TIME = ("/healthz", "/readyz", "/metrics")
_MOST_CHARACTERS = 256  # longer than any host's name (RFC 1035, section 2.3.4)


def identify_requests(app: Flask) -> None:
    """Give each request an id and its answer the headers that all have, and log it."""

    @app.before_request
    def take_request_id() -> None:
        g.started = request.environ.get(ARRIVED_AT, time.monotonic())
        given = request.headers.get("X-Request-Id", "")
        g.trace_context = trace_fields(request.headers.get("traceparent", ""))
        g.request_id = given if is_sane_request_id(given) else uuid.uuid4().hex

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.request_id
        response.headers["X-Content-Type-Options"] = "nosniff"
        if trace := g.get("trace"):
            response.headers["Server-Timing"] = ", ".join(
                f"{stage};dur={seconds * 1000:.1f}" for stage, seconds in trace.seconds.items() if stage in STAGES
            )
            if trace.cache:
                response.headers["X-Cache"] = trace.cache
        fields = _fields(response)
        started = g.started
        when_answered(response, lambda: _log_request(fields, time.monotonic() - started))
        return response


def is_sane_request_id(given: str) -> bool:
    """Tell whether a caller's id may stand in answers and in the log."""
    return _SANE_REQUEST_ID.fullmatch(given) is not None


def when_answered(response: Response, observe: Callable[[], object]) -> None:
    """Call ``observe`` when the answer is whole: a streamed one at its end, also where its reader has gone."""
    if response.is_streamed:
        response.call_on_close(observe)
    else:
        observe()


def route_of_request() -> str:
    """Return the rule that the request came by: a path is a stranger's choice, and there is no end to paths."""
    return request.url_rule.rule if request.url_rule else "unmatched"


def error_code() -> str:
    """Return the code of the error that the request is answered with, or ``none``."""
    error = g.get("error")
    return error.code if error else "none"


def _fields(response: Response) -> dict[str, Any]:
    return {
        "request_id": g.request_id,
        **g.trace_context,
        **({"api_key": name} if (name := api_key_name()) else {}),
        "method": request.method,
        "path": request.path[:_MOST_CHARACTERS],
        "route": route_of_request(),
        "status": response.status_code,
        **_error_fields(),
        **_trace_fields(g.get("trace", Trace())),
    }


def _log_request(fields: dict[str, Any], seconds: float) -> None:
    """Write one line a request; what platforms and Prometheus ask every few seconds, only at DEBUG."""
    log.log(
        logging.DEBUG if fields["route"] in _ASKED_ALL_THE_TIME else logging.INFO,
        "%s %s %d",
        fields["method"],
        fields.pop("path"),
        fields["status"],
        extra={**fields, "total_ms": _milliseconds(seconds)},
    )


def _error_fields() -> dict[str, Any]:
    if not (error := g.get("error")):
        return {}
    fields = {"code": error.code, "error": error.message}
    # It may quote what an image's server said.
    return fields if error.detail is None else {**fields, "detail": error.detail[: 2 * _MOST_CHARACTERS]}


def _trace_fields(trace: Trace) -> dict[str, Any]:
    """Return what is known of the picture; of its URL only the host, since paths and queries carry secrets."""
    width, height = trace.image_size or (None, None)
    fields = {
        **{f"{stage}_ms": _milliseconds(seconds) for stage, seconds in trace.seconds.items()},
        "image_host": trace.image_host and trace.image_host[:_MOST_CHARACTERS],
        "image_bytes": trace.image_bytes,
        "image_format": trace.image_format,
        "image_width": width,
        "image_height": height,
        "cache": trace.cache,
        "batch_size": trace.batch_size,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 1)
