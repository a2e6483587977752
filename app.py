"""The web application: what is wired to what, which routes there are, and how an error is answered."""

from __future__ import annotations

import hmac
import logging
import math
import re
import uuid

from flask import Flask, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException

from captioning.admission import Admission, MemoryBudget
from captioning.batcher import GenerationOptions
from captioning.caption_request import parse_caption_request
from captioning.deadline import Deadline
from captioning.errors import (
    CaptioningError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    ShuttingDown,
    Unauthorized,
)
from captioning.fetcher import Fetcher
from captioning.pipeline import Pipeline, StageTimes
from captioning.request_body import read_body
from captioning.settings import Settings, load_settings
from model_loader import Captioner, make_captioner

log = logging.getLogger("captioning.app")

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


def create_app(settings: Settings | None = None, captioner: Captioner | None = None) -> Flask:
    """Make the application; the model is loaded from `Captioner.start` on, or the first caption."""
    settings = settings or load_settings()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("captioning").setLevel(settings.logging_level)
    # It would log whole URLs, secrets in their queries included, whenever a server's headers are odd.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    captioner = captioner or make_captioner(settings)

    app = Flask(__name__, static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions["captioner"] = captioner
    _identify_requests(app)
    _answer_errors(app)
    _add_health_routes(app, settings, captioner)
    _add_caption_route(app, settings, captioner)
    return app


def _add_caption_route(app: Flask, settings: Settings, captioner: Captioner) -> None:
    fetcher = Fetcher(
        connect_timeout_s=settings.fetch_connect_timeout_s,
        timeout_s=settings.fetch_timeout_s,
        max_redirects=settings.fetch_max_redirects,
        max_bytes=settings.max_image_bytes,
        allowed_ports=settings.fetch_allowed_ports,
        allow_private_addresses=settings.fetch_allow_private_addresses,
    )
    admission = Admission(settings.max_concurrent_requests)
    encoded = MemoryBudget(settings.encoded_memory_bytes)
    pipeline = Pipeline(
        fetcher,
        captioner,
        downloads=Admission(settings.max_concurrent_downloads),
        decoding=MemoryBudget(settings.decode_memory_bytes),
        max_image_pixels=settings.max_image_pixels,
    )
    defaults = GenerationOptions(max_new_tokens=settings.max_new_tokens, num_beams=settings.num_beams)

    @app.post("/local-caption")
    def local_caption() -> Response:
        deadline = Deadline.after(settings.request_timeout_s)
        _authorize(settings.api_keys)
        captioner.start()
        if captioner.status == "draining":
            raise ShuttingDown(retry_after_s=1)
        with admission.permit(captioner.expected_wait_s), encoded.hold(deadline) as memory:
            body = read_body(request, max_bytes=settings.max_body_bytes, deadline=deadline, memory=memory)
            asked = parse_caption_request(request, body, defaults, max_image_bytes=settings.max_image_bytes)
            g.times = StageTimes()
            caption = pipeline.caption(asked.source, asked.options, deadline=deadline, memory=memory, times=g.times)
        return jsonify(output=caption)


def _add_health_routes(app: Flask, settings: Settings, captioner: Captioner) -> None:
    @app.get("/healthz")
    def healthz() -> Response:
        return jsonify(status="ok")

    @app.get("/readyz")
    def readyz() -> tuple[Response, int]:
        body = {
            "status": captioner.status,
            "model": settings.model_id,
            "revision": settings.revision,
            "engine": settings.engine,
        }
        return jsonify(body), 200 if captioner.status == "ready" else 503


def _authorize(api_keys: frozenset[str]) -> None:
    if not api_keys:
        return
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    given = key.strip().encode()
    # Every key is compared, each in constant time: how long it takes tells nothing about any of them.
    matches = [hmac.compare_digest(given, known.encode()) for known in api_keys]
    if scheme.lower() != "bearer" or not any(matches):
        raise Unauthorized


def _identify_requests(app: Flask) -> None:
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


def _answer_errors(app: Flask) -> None:
    @app.errorhandler(CaptioningError)
    def answer(error: CaptioningError) -> tuple[Response, int]:
        g.error = error
        response = jsonify(error=error.message, code=error.code, requestId=g.request_id)
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

    @app.errorhandler(Exception)
    def answer_bug(error: Exception) -> tuple[Response, int]:
        log.exception("%s 500", g.request_id, exc_info=error)
        return answer(InternalError())
