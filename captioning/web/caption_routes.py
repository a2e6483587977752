"""The routes that caption: key, permit, body, pipeline, answer."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack

from flask import Blueprint, Response, g, jsonify, request

from captioning.deadline import Deadline
from captioning.errors import ShuttingDown
from captioning.limits import Admission, MemoryBudget, MemoryHold
from captioning.model.engine import GenerationOptions
from captioning.pipeline import Model, Pipeline
from captioning.settings import Settings
from captioning.trace import Trace
from captioning.web.answers import CaptionAnswer, CaptionLine, CaptionsAnswer, PictureError, PictureErrorLine
from captioning.web.api_keys import ApiKeys
from captioning.web.body import read_body
from captioning.web.bulk import each_as_admitted
from captioning.web.caption_request import parse_caption_request, parse_captions_request
from captioning.web.error_answers import as_captioning_error
from captioning.web.image_urls import source_of
from captioning.web.request_deadline import request_deadline

log = logging.getLogger("captioning.pictures")


def caption_routes(
    settings: Settings,
    model: Model,
    pipeline: Pipeline,
    admission: Admission,
    on_picture: Callable[[Trace], None],
) -> Blueprint:
    """Make the routes that answer pictures with captions; ``on_picture`` is told of each, captioned or not."""
    routes = Blueprint("captions", __name__)
    api_keys = ApiKeys(settings.api_keys, admission)
    encoded = MemoryBudget(settings.encoded_memory_bytes)
    defaults = GenerationOptions(max_new_tokens=settings.max_new_tokens, num_beams=settings.num_beams)

    @routes.post("/local-caption")
    def local_caption() -> Response:
        permits = api_keys.check(request)
        check_open()
        deadline = request_deadline(request, settings.request_timeout_s)
        with permits.permit(model.expected_wait_s), encoded.hold(deadline) as memory:
            body = read_body(request, max_bytes=settings.max_body_bytes, deadline=deadline, memory=memory)
            asked = parse_caption_request(request, body, defaults, max_image_bytes=settings.max_image_bytes)
            g.trace = Trace()
            output = caption(asked.source, asked.options, deadline, memory, g.trace)
        return jsonify(CaptionAnswer(output=output).model_dump())

    @routes.post("/local-captions")
    def local_captions() -> Response:
        permits = api_keys.check(request)
        check_open()
        deadline = request_deadline(request, settings.request_timeout_s)
        caller = request_deadline(request, math.inf)  # how long is waited for all of them, if the caller says so
        with ExitStack() as held:
            held.enter_context(permits.permit(model.expected_wait_s))
            memory = held.enter_context(encoded.hold(deadline))
            body = read_body(request, max_bytes=settings.max_body_bytes, deadline=deadline, memory=memory)
            asked = parse_captions_request(request, body, defaults)

            def caption_one(url: str) -> str:
                check_open()
                deadline = caller.within(settings.request_timeout_s)
                source = source_of(url, settings.max_image_bytes)
                with encoded.hold(deadline) as memory:
                    return caption(source, asked.options, deadline, memory, Trace())

            done = each_as_admitted(asked.image_urls, caption_one, admission=permits, at_once=settings.bulk_at_once)
            if "application/x-ndjson" in request.accept_mimetypes.values():
                response = Response(_lines(done, g.request_id), mimetype="application/x-ndjson")
                response.call_on_close(held.pop_all().close)
                return response
            outputs = {index: _answer(index, future, g.request_id) for index, future in done}
        in_order = CaptionsAnswer(outputs=[outputs[index] for index in range(len(outputs))])
        return jsonify(in_order.model_dump())

    def caption(
        source: str | bytes, options: GenerationOptions, deadline: Deadline, memory: MemoryHold, trace: Trace
    ) -> str:
        try:
            return pipeline.caption(source, options, deadline=deadline, memory=memory, trace=trace)
        finally:
            on_picture(trace)

    def check_open() -> None:
        model.start()
        if model.status == "draining":
            raise ShuttingDown(retry_after_s=1)

    return routes


def _lines(done: Iterator[tuple[int, Future[str]]], request_id: str) -> Iterator[str]:
    for index, future in done:
        answer = _answer(index, future, request_id)
        line = CaptionLine if isinstance(answer, CaptionAnswer) else PictureErrorLine
        yield json.dumps(line(index=index, **answer.model_dump()).model_dump()) + "\n"


def _answer(index: int, future: Future[str], request_id: str) -> CaptionAnswer | PictureError:
    error = future.exception()
    if error is None:
        return CaptionAnswer(output=future.result())
    known = as_captioning_error(error, request_id)
    log.info(
        "picture %d of a bulk request failed",
        index,
        extra={"request_id": request_id, "code": known.code, "error": known.message, "detail": known.detail},
    )
    return PictureError(error=known.message, code=known.code)
