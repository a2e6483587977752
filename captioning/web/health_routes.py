"""The routes that a platform asks whether this process lives and whether it is ready."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Response, jsonify

from captioning.lifecycle import Readiness
from captioning.web.answers import HealthAnswer, ReadinessAnswer


def health_routes(readiness: Callable[[], Readiness], *, name: str, revision: str | None, engine: str) -> Blueprint:
    """Make the routes for liveness and readiness."""
    routes = Blueprint("health", __name__)

    @routes.get("/healthz")
    def healthz() -> Response:
        return jsonify(HealthAnswer().model_dump())

    @routes.get("/readyz")
    def readyz() -> tuple[Response, int]:
        answer = ReadinessAnswer(status=readiness(), model=name, revision=revision, engine=engine)
        return jsonify(answer.model_dump()), 200 if answer.status == "ready" else 503

    return routes
