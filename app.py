"""The web application: what is wired to what."""

from __future__ import annotations

import logging

from flask import Flask

from captioning.caption_routes import caption_routes
from captioning.cli import caption_command
from captioning.error_answers import answer_errors
from captioning.health_routes import health_routes
from captioning.pipeline import make_pipeline
from captioning.request_log import identify_requests
from captioning.settings import Settings, load_settings
from model_loader import Captioner, load_engine, make_captioner


def create_app(settings: Settings | None = None, captioner: Captioner | None = None) -> Flask:
    """Make the application; the model is loaded from `Captioner.start` on, or the first caption."""
    settings = settings or load_settings()
    _configure_logging(settings)
    captioner = captioner or make_captioner(settings)
    pipeline = make_pipeline(settings, captioner)

    app = Flask(__name__, static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions["captioner"] = captioner
    identify_requests(app)
    answer_errors(app)
    app.register_blueprint(health_routes(settings, captioner))
    app.register_blueprint(caption_routes(settings, captioner, pipeline))
    app.cli.add_command(caption_command(settings, load_engine))
    return app


def _configure_logging(settings: Settings) -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("captioning").setLevel(settings.logging_level)
    # It would log whole URLs, secrets in their queries included, whenever a server's headers are odd.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
