"""The route that captions: key, permit, body, pipeline, answer."""

from __future__ import annotations

import hmac

from flask import Blueprint, Response, g, jsonify, request

from captioning.admission import Admission, MemoryBudget
from captioning.batcher import GenerationOptions
from captioning.caption_request import parse_caption_request
from captioning.errors import ShuttingDown, Unauthorized
from captioning.pipeline import Model, Pipeline
from captioning.request_body import read_body
from captioning.request_deadline import request_deadline
from captioning.settings import Settings
from captioning.trace import Trace


def caption_routes(settings: Settings, model: Model, pipeline: Pipeline, admission: Admission) -> Blueprint:
    """Make the routes that answer pictures with captions."""
    routes = Blueprint("captions", __name__)
    encoded = MemoryBudget(settings.encoded_memory_bytes)
    defaults = GenerationOptions(max_new_tokens=settings.max_new_tokens, num_beams=settings.num_beams)

    @routes.post("/local-caption")
    def local_caption() -> Response:
        _authorize(settings.api_keys)
        model.start()
        if model.status == "draining":
            raise ShuttingDown(retry_after_s=1)
        deadline = request_deadline(request, settings.request_timeout_s)
        with admission.permit(model.expected_wait_s), encoded.hold(deadline) as memory:
            body = read_body(request, max_bytes=settings.max_body_bytes, deadline=deadline, memory=memory)
            asked = parse_caption_request(request, body, defaults, max_image_bytes=settings.max_image_bytes)
            g.trace = Trace()
            caption = pipeline.caption(asked.source, asked.options, deadline=deadline, memory=memory, trace=g.trace)
        return jsonify(output=caption)

    return routes


def _authorize(api_keys: frozenset[str]) -> None:
    if not api_keys:
        return
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    given = key.strip().encode()
    # Every key is compared, each in constant time: how long it takes tells nothing about any of them.
    matches = [hmac.compare_digest(given, known.encode()) for known in api_keys]
    if scheme.lower() != "bearer" or not any(matches):
        raise Unauthorized
