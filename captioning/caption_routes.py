"""The routes that caption: key, permit, body, pipeline, answer."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack

from flask import Blueprint, Response, g, jsonify, request

from captioning.admission import Admission, MemoryBudget
from captioning.answers import CaptionAnswer, PictureError
from captioning.batcher import GenerationOptions
from captioning.bulk import each_as_admitted
from captioning.caption_request import parse_caption_request, parse_captions_request, source_of
from captioning.deadline import Deadline
from captioning.error_answers import as_captioning_error
from captioning.errors import ShuttingDown, Unauthorized
from captioning.pipeline import Model, Pipeline, StageTimes
from captioning.request_body import read_body
from captioning.settings import Settings


def caption_routes(settings: Settings, model: Model, pipeline: Pipeline) -> Blueprint:
    """Make the routes that answer pictures with captions."""
    routes = Blueprint("captions", __name__)
    admission = Admission(settings.max_concurrent_requests)
    encoded = MemoryBudget(settings.encoded_memory_bytes)
    defaults = GenerationOptions(max_new_tokens=settings.max_new_tokens, num_beams=settings.num_beams)

    @routes.post("/local-caption")
    def local_caption() -> Response:
        deadline = Deadline.after(settings.request_timeout_s)
        _authorize(settings.api_keys)
        check_open()
        with admission.permit(model.expected_wait_s), encoded.hold(deadline) as memory:
            body = read_body(request, max_bytes=settings.max_body_bytes, deadline=deadline, memory=memory)
            asked = parse_caption_request(request, body, defaults, max_image_bytes=settings.max_image_bytes)
            g.times = StageTimes()
            caption = pipeline.caption(asked.source, asked.options, deadline=deadline, memory=memory, times=g.times)
        return jsonify(CaptionAnswer(output=caption).model_dump())

    @routes.post("/local-captions")
    def local_captions() -> Response:
        deadline = Deadline.after(settings.request_timeout_s)
        _authorize(settings.api_keys)
        check_open()
        with ExitStack() as held:
            held.enter_context(admission.permit(model.expected_wait_s))
            memory = held.enter_context(encoded.hold(deadline))
            body = read_body(request, max_bytes=settings.max_body_bytes, deadline=deadline, memory=memory)
            asked = parse_captions_request(request, body, defaults)

            def caption(url: str) -> str:
                check_open()
                deadline = Deadline.after(settings.request_timeout_s)
                source = source_of(url, settings.max_image_bytes)
                with encoded.hold(deadline) as memory:
                    return pipeline.caption(source, asked.options, deadline=deadline, memory=memory, times=StageTimes())

            done = each_as_admitted(asked.image_urls, caption, admission=admission, at_once=settings.bulk_at_once)
            if "application/x-ndjson" in request.accept_mimetypes.values():
                response = Response(_lines(done, g.request_id), mimetype="application/x-ndjson")
                response.call_on_close(held.pop_all().close)
                return response
            outputs = {index: _answer(future, g.request_id) for index, future in done}
        return jsonify(outputs=[outputs[index] for index in range(len(outputs))])

    def check_open() -> None:
        model.start()
        if model.status == "draining":
            raise ShuttingDown(retry_after_s=1)

    return routes


def _lines(done: Iterator[tuple[int, Future[str]]], request_id: str) -> Iterator[str]:
    for index, future in done:
        yield json.dumps({"index": index, **_answer(future, request_id)}) + "\n"


def _answer(future: Future[str], request_id: str) -> dict[str, str]:
    error = future.exception()
    if error is None:
        return CaptionAnswer(output=future.result()).model_dump()
    known = as_captioning_error(error, request_id)
    return PictureError(error=known.message, code=known.code).model_dump()


def _authorize(api_keys: frozenset[str]) -> None:
    if not api_keys:
        return
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    given = key.strip().encode()
    # Every key is compared, each in constant time: how long it takes tells nothing about any of them.
    matches = [hmac.compare_digest(given, known.encode()) for known in api_keys]
    if scheme.lower() != "bearer" or not any(matches):
        raise Unauthorized
