"""The routes that caption: key, body, permit, pipeline, answer."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from typing import Any

from flask import Blueprint, Response, g, jsonify, request

from captioning.byte_budget import ByteHold
from captioning.deadline import Deadline
from captioning.model.engine import Candidates, GenerationOptions
from captioning.pipeline import EncodedPicture, Pipeline
from captioning.settings import Settings
from captioning.trace import Trace
from captioning.web.admission import Admission
from captioning.web.answers import (
    CandidateAnswer,
    CaptionAnswer,
    CaptionLine,
    CaptionsAnswer,
    PictureError,
    PictureErrorLine,
)
from captioning.web.body import read_body
from captioning.web.bulk import each_as_admitted
from captioning.web.caption_request import (
    CaptionRequest,
    parse_caption_request,
    parse_captions_request,
    picture_of,
)
from captioning.web.data_urls import is_data_url
from captioning.web.error_answers import as_captioning_error
from captioning.web.image_urls import source_of
from captioning.web.request_deadline import request_deadline

log = logging.getLogger("captioning.pictures")

CAPTION, CAPTIONS = "/local-caption", "/local-captions"
CAPTION_PATHS = {CAPTION: True, CAPTIONS: False}
"""The paths whose bodies are read, and whether their JSON names a single picture."""

_BULK_PATIENCE_S = 3600.0
"""How long a bulk request takes at most when its caller names no time: none of its pictures is lost for want of it."""


def caption_routes(
    settings: Settings,
    admission: Admission,
    pipeline: Pipeline,
    on_picture: Callable[[Trace], None],
    *,
    name: str,
    revision: str | None,
) -> Blueprint:
    """Make the routes that answer pictures with captions; ``on_picture`` is told of each, captioned or not.

    ``name`` and ``revision`` are the model's, for those who ask for details.
    """
    lifecycle, limits = admission.lifecycle, admission.limits
    routes = Blueprint("captions", __name__)
    defaults = GenerationOptions.from_settings(settings)

    @routes.before_request
    def check_head() -> None:
        """Refuse what the head is enough for; a server may ask this before it collects the body."""
        if request.method == "OPTIONS":
            return  # a browser asks this way whether it may ask, and sends no key yet (Fetch standard, CORS preflight)
        g.api_key = admission.api_keys.check(request)
        g.permits = admission.api_keys.permits_of(g.api_key)
        admission.check(request.environ)

    @routes.post(CAPTION)
    def local_caption() -> Response:
        deadline = request_deadline(request, settings.request_timeout_s)
        g.trace = Trace()
        with limits.bodies.hold() as hold:
            source, asked = receive(deadline, hold)
            g.trace.seconds["receive"] = time.monotonic() - g.started  # the server may have collected the body
            with admission.permit(g.permits, source):
                candidates = caption(source, asked.options, deadline, g.trace)
        return jsonify(answer(candidates, asked).shown())

    @routes.post(CAPTIONS)
    def local_captions() -> Response:
        patience = replace(request_deadline(request, _BULK_PATIENCE_S), interrupt=lifecycle.interrupt)
        with ExitStack() as held:
            body = held.enter_context(limits.bodies.hold())
            sources, asked = receive_bulk(patience.within(settings.request_timeout_s), body)
            pipeline.engine_for(asked.options)  # one answer for all pictures, with Retry-After
            held.enter_context(g.permits.permit(admission.expected_wait_s))
            held.enter_context(limits.urls.counted())

            def caption_one(index: int) -> CaptionAnswer:
                lifecycle.check()
                patience.check()
                with limits.pictures.hold() as hold:
                    source = take(index, hold)
                    return answer(caption(source, asked.options, patience, Trace()), asked)

            def take(index: int, hold: ByteHold) -> str | EncodedPicture:
                given, sources[index] = sources[index], b""
                try:
                    limit = settings.max_image_bytes
                    source = source_of(given, limit) if isinstance(given, str) else picture_of(given, limit)
                    if isinstance(source, str):
                        return source
                    hold.grow(len(source), patience)
                    return EncodedPicture(source, hold)
                finally:
                    body.give_back(len(given))

            # Bytes first: while they wait, no other request may have theirs, and a picture's server may be silent.
            done = each_as_admitted(
                sorted(range(len(sources)), key=lambda index: _is_plain_url(sources[index])),
                caption_one,
                permit=partial(admission.url_permit, g.permits),
                at_once=settings.bulk_at_once,
            )
            held.enter_context(closing(done))
            answers = map(partial(_answer, request_id=g.request_id), done)
            if "application/x-ndjson" in request.accept_mimetypes.values():
                response = Response(map(_line, answers), mimetype="application/x-ndjson")  # read after this function
                response.call_on_close(held.pop_all().close)
                return response
            outputs = dict(answers)
        in_order = CaptionsAnswer(outputs=[outputs[index] for index in range(len(outputs))])
        return jsonify(in_order.shown())

    def receive(deadline: Deadline, hold: ByteHold) -> tuple[str | EncodedPicture, CaptionRequest]:
        body = read_body(request, max_bytes=settings.max_body_bytes, deadline=deadline, hold=hold)
        source, asked = parse_caption_request(request, body, defaults, max_image_bytes=settings.max_image_bytes)
        if isinstance(source, str):
            hold.release()
            return source, asked
        hold.shrink(len(source))
        return EncodedPicture(source, hold), asked

    def receive_bulk(deadline: Deadline, hold: ByteHold) -> tuple[list[str | bytes], CaptionRequest]:
        body = read_body(request, max_bytes=settings.max_body_bytes, deadline=deadline, hold=hold)
        sources, asked = parse_captions_request(request, body, defaults)
        hold.shrink(sum(map(len, sources)))
        return sources, asked

    def caption(
        source: str | EncodedPicture, options: GenerationOptions, deadline: Deadline, trace: Trace
    ) -> Candidates:
        try:
            return pipeline.caption(source, options, deadline=deadline, trace=trace)
        finally:
            on_picture(trace)

    def answer(candidates: Candidates, asked: CaptionRequest) -> CaptionAnswer:
        best, *_ = candidates
        shown: dict[str, Any] = {"output": best.text}
        if asked.details:
            shown |= {"confidence": best.confidence, "tokens": best.tokens, "finish_reason": best.finish_reason}
            shown |= {"model": name, "revision": revision, "engine": settings.engine}
        if asked.candidates:
            listed = candidates[: asked.candidates]
            shown["candidates"] = [CandidateAnswer(output=one.text, score=one.score) for one in listed]
        return CaptionAnswer(**shown)

    return routes


def _is_plain_url(source: str | bytes) -> bool:
    return isinstance(source, str) and not is_data_url(source)


def _line(answer: tuple[int, CaptionAnswer | PictureError]) -> str:
    index, shown = answer
    line = CaptionLine if isinstance(shown, CaptionAnswer) else PictureErrorLine
    return json.dumps(line(index=index, **shown.model_dump(exclude_unset=True)).shown()) + "\n"


def _answer(done: tuple[int, Future[CaptionAnswer]], *, request_id: str) -> tuple[int, CaptionAnswer | PictureError]:
    index, future = done
    error = future.exception()
    if error is None:
        return index, future.result()
    known = as_captioning_error(error, request_id)
    log.info(
        "picture %d of a bulk request failed",
        index,
        extra={"request_id": request_id, "code": known.code, "error": known.message, "detail": known.detail},
    )
    return index, PictureError(error=known.message, code=known.code)
