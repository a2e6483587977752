"""Where the web server and the metrics meet: every answer is measured, and Prometheus is answered."""

from __future__ import annotations

import time
from functools import partial

from flask import Blueprint, Flask, Response, g, request
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from captioning.observe.metrics import Metrics
from captioning.web.api_keys import api_key_name
from captioning.web.request_log import error_code, route_of_request, when_answered


def measure_requests(app: Flask, metrics: Metrics) -> None:
    """Measure each request by what it leaves behind when it is answered."""

    @app.after_request
    def observe(response: Response) -> Response:
        observe_after = partial(
            metrics.observe_request,
            route=route_of_request(),
            method=request.method,
            status=response.status_code,
            code=error_code(),
            api_key=api_key_name() or "none",
        )
        started = g.started
        when_answered(response, lambda: observe_after(seconds=time.monotonic() - started))
        return response


def metrics_routes(metrics: Metrics) -> Blueprint:
    """Make the route that Prometheus asks; it needs no key, since it tells no secrets."""
    routes = Blueprint("metrics", __name__)

    @routes.get("/metrics")
    def exposition() -> Response:
        return Response(metrics.exposition(), content_type=CONTENT_TYPE_PLAIN_0_0_4)

    return routes
