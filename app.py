"""The web application: what is wired to what."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from flask import Flask
from flask_cors import CORS

from captioning.cli.command import caption_command
from captioning.lifecycle import Lifecycle, Readiness
from captioning.limits import Limits
from captioning.model.batcher import Batcher
from captioning.model.registry import export_fidelity, name_and_revision
from captioning.observe.logs import configure_logging
from captioning.observe.metrics import Metrics
from captioning.pictures.decoders import Decoders
from captioning.pipeline import make_pipeline
from captioning.settings import Settings, load_settings
from captioning.web.admission import Admission
from captioning.web.api_keys import ApiKeys
from captioning.web.body import BodyRules, expected_body
from captioning.web.caption_routes import CAPTION_PATHS, caption_routes
from captioning.web.error_answers import answer_errors
from captioning.web.health_routes import health_routes
from captioning.web.metrics_routes import measure_requests, metrics_routes
from captioning.web.page_routes import page_routes
from captioning.web.request_log import identify_requests
from model_loader import Captioner, load_engine, make_captioner


def create_app(
    settings: Settings | None = None, make_model: Callable[[Settings, Batcher], Captioner] = make_captioner
) -> Flask:
    """Make the application; the model is loaded from `Captioner.start` on, or the first caption."""
    settings = settings or load_settings()
    configure_logging(settings)
    metrics = Metrics()
    limits = Limits.from_settings(settings)
    batcher = Batcher(max_batch_size=settings.batch_max_size, on_batch=metrics.observe_batch)
    lifecycle = Lifecycle()
    captioner = make_model(settings, batcher)
    name, revision = name_and_revision(settings)

    def readiness() -> Readiness:
        failed = captioner.status == "failed"
        return "draining" if lifecycle.draining and not failed else captioner.status

    decoders = Decoders.from_settings(settings)
    pipeline = make_pipeline(settings, captioner, batcher, limits, decoders)
    admission = Admission(lifecycle, ApiKeys(settings.api_keys, limits.requests), limits, batcher.expected_wait_s)
    metrics.watch(limits, batcher, readiness)

    app = Flask(__name__, static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions["captioner"] = captioner
    app.extensions["decoders"] = decoders
    app.extensions["lifecycle"] = lifecycle
    app.extensions["metrics"] = metrics
    app.extensions["bodies"] = BodyRules(
        max_bytes=settings.max_body_bytes,
        budget=limits.bodies,
        expected=partial(expected_body, admission, CAPTION_PATHS, settings.request_timeout_s),
    )
    _allow_origins(app, settings.cors_origins)
    identify_requests(app)
    measure_requests(app, metrics)
    answer_errors(app)
    app.register_blueprint(
        health_routes(
            readiness, name=name, revision=revision, engine=settings.engine, fidelity=export_fidelity(settings)
        )
    )
    app.register_blueprint(metrics_routes(metrics))
    app.register_blueprint(
        caption_routes(settings, admission, pipeline, metrics.observe_picture, name=name, revision=revision)
    )
    app.register_blueprint(page_routes(settings))
    app.cli.add_command(caption_command(settings, load_engine))
    return app


def _allow_origins(app: Flask, origins: frozenset[str]) -> None:
    """Let pages of these origins ask from the browser (https://fetch.spec.whatwg.org/#http-cors-protocol)."""
    if origins:
        CORS(
            app,
            origins=sorted(origins),
            allow_headers=["Authorization", "Content-Type", "X-Request-Id", "X-Request-Timeout-Ms"],
            expose_headers=["Retry-After", "Server-Timing", "X-Cache", "X-Request-Id"],
            max_age=3600,
        )
