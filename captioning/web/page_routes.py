"""The pages for people, what they load, and the API's description; all open, whether or not captions need a key."""

from __future__ import annotations

import json
from pathlib import Path

from flask import Blueprint, Response, jsonify, render_template, send_from_directory

from captioning.errors import NotFound
from captioning.settings import Settings
from captioning.web.openapi import describe_api

SAMPLES = Path(__file__).resolve().parents[2] / "models" / "blip-emoji" / "samples"

_HEADERS = {
    # Nothing comes from another host, but for the pictures whose URLs the visitor gives.
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' blob: data: https: http:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
}


def page_routes(settings: Settings, samples: Path = SAMPLES) -> Blueprint:
    """Make the routes of the pages; without a folder of samples, the first one offers none."""
    routes = Blueprint("page", __name__, static_folder="static", static_url_path="/static", template_folder="templates")
    descriptions = _describe(samples)
    api = describe_api(keys_needed=bool(settings.api_keys))

    @routes.get("/")
    def index() -> str:
        return render_template("index.html", settings=settings, samples=descriptions)

    @routes.get("/docs")
    def docs() -> str:
        return render_template("docs.html", api=api)

    @routes.get("/openapi.json")
    def openapi() -> Response:
        return jsonify(api)

    @routes.get("/samples/<name>")
    def sample(name: str) -> Response:
        if name not in descriptions:
            raise NotFound
        return send_from_directory(samples, name)

    @routes.after_request
    def add_headers(response: Response) -> Response:
        response.headers.update(_HEADERS)
        response.headers.setdefault("Cache-Control", "no-cache")  # kept, but asked about: a deploy shows at once
        return response

    return routes


def _describe(samples: Path) -> dict[str, str]:
    """Return what is on each sample picture that is there, by its file's name."""
    descriptions = samples / "captions.json"
    if not descriptions.is_file():
        return {}
    known: dict[str, str] = json.loads(descriptions.read_text())
    return {name: text for name, text in known.items() if (samples / name).is_file()}
