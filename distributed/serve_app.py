"""The service on Ray Serve: the same routes, errors, headers and captions, on as many replicas as requests need.

serve run distributed/serve.yaml        # or make serve-ray
serve deploy distributed/serve.yaml     # on a cluster that runs
"""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import Any

import ray
from pydantic import BaseModel, Field, PositiveInt
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from app import create_app
from captioning.errors import ModelFailed
from captioning.observe.metrics import Metrics
from captioning.settings import Settings, load_settings
from distributed.asgi import AsgiApplication
from distributed.ray_metrics import show_in_ray
from model_loader import Captioner, make_captioner


class Size(BaseModel):
    """How many replicas there are, and what each takes of its machine: the arguments in serve.yaml."""

    min_replicas: PositiveInt = 1
    max_replicas: PositiveInt = 4
    target_ongoing_requests: PositiveInt = 8
    """Requests under way a replica, beyond which another one is started: two batches of four pictures."""
    upscale_delay_s: float = Field(10, ge=0)
    downscale_delay_s: float = Field(300, ge=0)
    cpus: PositiveInt = 1
    gpus: float = Field(0, ge=0)


@serve.deployment
@serve.ingress()
class Captioning:
    """One replica: one model and the whole application in front of it."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Serve awaits it
        """Load the model and caption one picture with it; Serve sends no request before.

        Raises `ModelFailed` where there is no model; then Serve tries again, and gives the deployment up.
        """
        cpus = int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))
        settings = settings.model_copy(update={"num_threads": settings.num_threads or cpus})
        self._settings = settings
        self._app = create_app(settings, partial(make_captioner, on_failure=_leave_it_to_serve))
        self._app.extensions["decoders"].start()
        self._captioner: Captioner = self._app.extensions["captioner"]
        self._captioner.start()
        while self._captioner.status == "loading":
            await asyncio.sleep(0.05)
        self.check_health()
        metrics: Metrics = self._app.extensions["metrics"]
        metrics.start()
        show_in_ray(metrics)

    def __serve_build_asgi_app__(self) -> AsgiApplication:
        return AsgiApplication(
            self._app,
            self._app.extensions["bodies"],
            threads=self._settings.request_threads,
            script_name=self._settings.script_name,
        )

    def check_health(self) -> None:
        """Raise `ModelFailed` where the model stopped working: Serve then replaces this replica."""
        if self._captioner.status == "failed":
            raise ModelFailed


def _leave_it_to_serve(served: bool) -> None:
    """Go on without a model: `Captioning.check_health` tells Serve, which replaces the replica."""


def build(arguments: dict[str, Any]) -> serve.Application:
    """Make the application under the settings of the environment; Serve calls this with serve.yaml's ``args``."""
    size = Size.model_validate(arguments)
    settings = load_settings()
    at_once = settings.request_threads
    return Captioning.options(  # type: ignore[attr-defined]
        max_ongoing_requests=at_once,
        max_queued_requests=at_once,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        autoscaling_config=AutoscalingConfig(
            min_replicas=size.min_replicas,
            max_replicas=size.max_replicas,
            target_ongoing_requests=size.target_ongoing_requests,
            upscale_delay_s=size.upscale_delay_s,
            downscale_delay_s=size.downscale_delay_s,
            metrics_interval_s=1,
            look_back_period_s=5,
        ),
        graceful_shutdown_timeout_s=math.ceil(settings.request_timeout_s) + 2,  # whoever was let in is answered
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=5,
        ray_actor_options={"num_cpus": size.cpus, "num_gpus": size.gpus},
    ).bind(settings)
