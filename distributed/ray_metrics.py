"""The service's metrics among Ray's own, which every machine of a cluster shows for all replicas on it."""

from __future__ import annotations

import threading
import time

from prometheus_client.parser import text_string_to_metric_families
from ray.serve.metrics import Gauge

from captioning.observe.metrics import Metrics

_EVERY_S = 5.0


def show_in_ray(metrics: Metrics) -> None:
    """Copy every value to Ray from now on, as ``ray_`` and its name; Ray adds which replica's it is."""
    threading.Thread(target=_keep_copying, args=(metrics,), name="ray-metrics", daemon=True).start()


def _keep_copying(metrics: Metrics) -> None:
    gauges: dict[str, Gauge] = {}
    while True:
        for family in text_string_to_metric_families(metrics.exposition().decode()):
            for name, labels, value, *_ in family.samples:
                if name not in gauges:
                    gauges[name] = Gauge(name, description=family.documentation, tag_keys=tuple(labels))
                gauges[name].set(value, tags=labels)
        time.sleep(_EVERY_S)
