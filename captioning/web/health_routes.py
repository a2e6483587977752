"""The routes that a platform asks whether this process lives and whether it is ready."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Response, jsonify, request

from captioning.lifecycle import Readiness
from captioning.model.int8.manifest import Fidelity
from captioning.web.answers import HealthAnswer, ReadinessAnswer, VerboseReadinessAnswer


def health_routes(
    readiness: Callable[[], Readiness], *, name: str, revision: str | None, engine: str, fidelity: Fidelity | None
) -> Blueprint:
    """Make the routes for liveness and readiness."""
    routes = Blueprint("health", __name__)

    @routes.get("/healthz")
    def healthz() -> Response:
        return jsonify(HealthAnswer().model_dump())

    @routes.get("/readyz")
    def readyz() -> tuple[Response, int]:
        answer = ReadinessAnswer(status=readiness(), model=name, revision=revision, engine=engine)
        if "verbose" in request.args:
            answer = VerboseReadinessAnswer(**answer.model_dump(), fidelity=fidelity)
        return jsonify(answer.model_dump(by_alias=True)), 200 if answer.status == "ready" else 503

    return routes
