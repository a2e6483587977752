"""How gunicorn serves the application. What is set here, GUNICORN_CMD_ARGS and the command line outrank."""

import math
import os
import sys
from pathlib import Path
from typing import Any

from captioning.model.registry import engine_kind
from captioning.observe.metrics_folder import forget_worker, make_metrics_folder
from captioning.observe.start_report import log_start
from captioning.server.allocator import give_memory_back
from captioning.settings import SettingsError, load_settings

try:
    _settings = load_settings()
    _engine = engine_kind(_settings)
except SettingsError as error:
    sys.exit(str(error))

# Before any thread is there; the workers inherit it.
give_memory_back(os.environ, block_bytes=_engine.block_bytes)

bind = _settings.bind
workers = _settings.web_concurrency
worker_class = "captioning.server.worker.Worker"
# More threads than admission has permits: a health check and a 429 never wait for a caption.
threads = _settings.max_concurrent_requests + 16
worker_connections = threads + 1000
backlog = 512
limit_request_line = 8190  # the most there is: a prompt of 500 characters takes up to 6,000 in a query
keepalive = 75  # longer than a proxy's, so that the proxy is the one to close
graceful_timeout = math.ceil(_settings.request_timeout_s) + 2  # whoever was let in is answered
# A heartbeat file on a disk can block for as long as the disk does.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
control_socket_disable = True
logger_class = "captioning.server.logger.GunicornLogger"
make_metrics_folder(worker_tmp_dir)


def on_starting(server: Any) -> None:
    """Log what is in force."""
    log_start(_settings, os.environ, server.cfg.bind, server.cfg.workers)


def post_worker_init(worker: Any) -> None:
    """Start all that a fork would not survive in the process that serves, whenever the application was imported."""
    # A thread gives the interpreter up after this time only, and the model's thread asks for it at every token. With
    # Python's 5 ms, a flood of refusals left the embedded model on int8 a third of its captions a second.
    sys.setswitchinterval(0.0005)
    extensions = worker.app.wsgi().extensions
    extensions["decoders"].start()
    extensions["captioner"].start()
    extensions["metrics"].start()
    worker.on_drain = extensions["lifecycle"].drain


def child_exit(_master: Any, worker: Any) -> None:
    """Take a worker that ended, however it did, out of the gauges."""
    forget_worker(worker.pid)
