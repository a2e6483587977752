"""How gunicorn serves the application. What is set here, GUNICORN_CMD_ARGS and the command line outrank."""

import math
import os
import sys
from typing import Any

from captioning.model.registry import engine_kind
from captioning.observe.metrics_folder import (
    forget_dead_workers,
    join_metrics_folder,
    make_metrics_folder,
    metrics_folder,
    writable_folders,
)
from captioning.observe.start_report import log_start
from captioning.server.allocator import give_memory_back
from captioning.server.succession import announce_new_master
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
threads = _settings.request_threads
worker_connections = threads + 1000
backlog = 2048  # a burst of newcomers; Linux cuts it to net.core.somaxconn
keepalive = 75  # longer than a proxy's, so that the proxy is the one to close
graceful_timeout = math.ceil(_settings.request_timeout_s) + 2  # whoever was let in is answered
# A heartbeat file on a disk can block for as long as the disk does.
_folders = writable_folders()
if not _folders:
    sys.exit("Neither /dev/shm nor the temporary folder can be written to. Make one writable (docker: --tmpfs /tmp).")
worker_tmp_dir = _folders[0]
control_socket_disable = True
logger_class = "captioning.server.logger.GunicornLogger"
make_metrics_folder(_folders)


def on_starting(server: Any) -> None:
    """Log what is in force."""
    log_start(_settings, os.environ, server.cfg.bind, server.cfg.workers)
    if metrics_folder() is None:
        server.log.warning("There is no room for metrics that workers share: each worker's /metrics is its own.")


def nworkers_changed(server: Any, new: int, old: int | None) -> None:
    """Note for which worker there is one more: the first that asked. Put its sign of life where there is room now."""
    if old is not None and new == old + 1:
        asking = (worker.succession for worker in server.WORKERS.values())
        if succession := next((each for each in asking if each.asked and not each.granted), None):
            succession.granted = True
    # A file that cannot be made would end the master.
    for folder in writable_folders()[:1]:
        server.cfg.set("worker_tmp_dir", folder)


def pre_exec(_server: Any) -> None:
    """Tell the workers that there are that more will come: SIGUSR2 has made this process, the next master."""
    announce_new_master()


def post_fork(_server: Any, _worker: Any) -> None:
    """Take the worker's place in the metrics before any is made."""
    join_metrics_folder()


def post_worker_init(worker: Any) -> None:
    """Start all that a fork would not survive in the process that serves, whenever the application was imported."""
    # A thread gives the interpreter up after this time only, and the model's thread asks for it at every token. With
    # Python's 5 ms, a flood of refusals left the embedded model on int8 a third of its captions a second.
    sys.setswitchinterval(0.0005)
    extensions = worker.app.wsgi().extensions
    extensions["decoders"].start()
    extensions["captioner"].on_ready = worker.say_ready
    extensions["captioner"].others_serve = worker.others_serve
    extensions["captioner"].start()
    extensions["metrics"].start()
    worker.on_drain = extensions["lifecycle"].drain
    worker.on_last_call = extensions["lifecycle"].give_up
    worker.bodies = extensions["bodies"]
    worker.script_name = _settings.script_name
    worker.waits_for_successor = _settings.reload_overlap


def child_exit(server: Any, worker: Any) -> None:
    """Remove a worker that ended from the gauges; if there is one more in its place, lower their number again."""
    forget_dead_workers()
    if worker.succession.granted and server.num_workers > len(server.WORKERS):
        server.num_workers -= 1
