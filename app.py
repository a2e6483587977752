"""The web application: what is wired to what."""

from __future__ import annotations

from flask import Flask

from captioning.admission import Admission
from captioning.caption_routes import caption_routes
from captioning.error_answers import answer_errors
from captioning.health_routes import health_routes
from captioning.logs import configure_logging
from captioning.metrics import Metrics
from captioning.metrics_routes import measure_requests, metrics_routes
from captioning.pipeline import make_pipeline
from captioning.request_log import identify_requests
from captioning.settings import Settings, load_settings
from model_loader import Captioner, make_captioner


def create_app(settings: Settings | None = None, captioner: Captioner | None = None) -> Flask:
    """Make the application; the model is loaded from `Captioner.start` on, or the first caption."""
    settings = settings or load_settings()
    configure_logging(settings)
    metrics = Metrics()
    captioner = captioner or make_captioner(settings, on_batch=metrics.observe_batch)
    pipeline = make_pipeline(settings, captioner)
    admission = Admission(settings.max_concurrent_requests)
    metrics.watch(admission=admission, downloads=pipeline.downloads, decoding=pipeline.decoding, model=captioner)

    app = Flask(__name__, static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions["captioner"] = captioner
    app.extensions["metrics"] = metrics
    identify_requests(app)
    measure_requests(app, metrics)
    answer_errors(app)
    app.register_blueprint(health_routes(settings, captioner))
    app.register_blueprint(metrics_routes(metrics))
    app.register_blueprint(caption_routes(settings, captioner, pipeline, admission))
    return app
