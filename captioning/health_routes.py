"""The routes that a platform asks whether this process lives and whether it is ready."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from captioning.answers import HealthAnswer, ReadinessAnswer
from captioning.pipeline import Model
from captioning.settings import Settings


def health_routes(settings: Settings, model: Model) -> Blueprint:
    """Make the routes for liveness and readiness."""
    routes = Blueprint("health", __name__)

    @routes.get("/healthz")
    def healthz() -> Response:
        return jsonify(HealthAnswer().model_dump())

    @routes.get("/readyz")
    def readyz() -> tuple[Response, int]:
        answer = ReadinessAnswer(
            status=model.status, model=settings.model_id, revision=settings.revision, engine=settings.engine
        )
        return jsonify(answer.model_dump()), 200 if answer.status == "ready" else 503

    return routes
