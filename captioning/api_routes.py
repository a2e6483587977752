"""The routes that describe the API: to programs as OpenAPI, to people as a page."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, render_template

from captioning.openapi import describe_api
from captioning.settings import Settings


def api_routes(settings: Settings) -> Blueprint:
    """Make the routes of the API's description."""
    routes = Blueprint("api", __name__, template_folder="templates")
    description = describe_api(keys_needed=bool(settings.api_keys))

    @routes.get("/openapi.json")
    def openapi() -> Response:
        return jsonify(description)

    @routes.get("/docs")
    def docs() -> str:
        return render_template("docs.html", api=description)

    return routes
