"""gunicorn's side of a worker process: its life from the fork to its end. `event_loop.py` is what it serves with.

A request has come whole before a thread gets it, and no thread waits for a client; a stop lets everything finish that
was accepted; a worker that leaves while others stay lets one of them be ready first.

It speaks HTTP/1 without TLS, as behind Render's proxy.
"""

from __future__ import annotations

import logging
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from gunicorn.workers.base import Worker as GunicornWorker
from gunicorn.workers.workertmp import WorkerTmp

from captioning.server.connection import Connection, has_hung_up
from captioning.server.event_loop import EventLoop
from captioning.server.heartbeat import Heartbeat
from captioning.server.siblings import Siblings
from captioning.server.succession import Succession
from captioning.server.wsgi import Answer
from captioning.web.body import BodyRules
from captioning.web.request_deadline import ABANDONED, ARRIVED_AT

GUNICORN_NAMES = {
    "gunicorn.workers.base.Worker": (
        # what is overridden
        *("__init__", "init_process", "handle_exit", "handle_quit", "run"),
        # what is read or called
        *("alive", "cfg", "log", "max_requests", "notify", "pid", "ppid", "sockets", "tmp", "wsgi"),
    ),
    "gunicorn.workers.workertmp.WorkerTmp": ("__init__", "last_update", "close"),
    "gunicorn.glogging.Logger": ("setup", "access", "error_log", "access_log"),
    "gunicorn.arbiter.Arbiter": ("num_workers", "WORKERS"),
}
"""All of gunicorn's that this folder and gunicorn.conf.py rest on beside its settings, its hooks and its signals."""

_TURN_S = 1.0
_POLL_SIBLINGS_S = 0.1
_LAST_CALL_S = 0.2  # for requests that were on their way here when the last accepted one was done
_LAST_ANSWERS_S = 2.0  # for answers with what is done, when the time to finish the rest is over
_LOST_IN_WAITING_S = 5.0  # of the time to finish the rest, at most, for a successor that did not come
_KEPT_ALIVE_S = 2.0  # for clients of a worker that leaves its place to a sibling, to send one more request


class Worker(GunicornWorker):  # type: ignore[misc]
    """A process that serves requests in threads, and connections that have no request in its main loop."""

    tmp: WorkerTmp

    on_drain: Callable[[], object] = staticmethod(lambda: None)
    """Called in the main thread when the process begins to refuse newcomers."""

    on_last_call: Callable[[], object] = staticmethod(lambda: None)
    """Called in the main thread when there is only time left to answer with what is done."""

    bodies: BodyRules
    """What is asked about a request's body before a thread has the request."""

    script_name = ""
    """The prefix of all paths, where a proxy passes them on with it."""

    waits_for_successor = True
    """Whether there is memory for one model more while this worker's successor loads."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # gunicorn makes this object in the master, which forks the process.
        self.succession = Succession()
        self.tmp.close()
        self.tmp = Heartbeat(self.cfg)
        self._interrupted = False
        self._told_at = math.inf
        self._closing = False
        self._may_serve = False
        self._last_call_at = math.inf

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Refuse what this worker would serve wrongly."""
        if cfg.is_ssl:
            sys.exit("This worker speaks no TLS: drop --certfile and --keyfile, and put a proxy in front.")

    def init_process(self) -> None:
        """Take as many descriptors as the connections may need, then serve."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Half of them are for downloads, look-ups, the model's files and the rest of the process.
        wanted = 2 * self.cfg.worker_connections
        if soft < wanted:
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self._max_connections = min(self.cfg.worker_connections, soft // 2)
        self._siblings = Siblings(self.sockets[0])
        self.succession.say_seen()
        super().init_process()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Leave."""
        self._told_at = min(self._told_at, time.monotonic())
        self.alive = False

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Leave on SIGINT and SIGQUIT as on SIGTERM; a second Ctrl-C ends the process at once."""
        if sig == signal.SIGINT:
            if self._interrupted:
                os._exit(0)
            self._interrupted = True
        self.handle_exit(sig, frame)

    def run(self) -> None:
        """Serve until told to stop, or as many requests as a worker may; then leave, and end the process."""
        self._loop = EventLoop(
            self.sockets,
            self._serve,
            bodies=self.bodies,
            max_connections=self._max_connections,
            threads=self.cfg.threads,
            keepalive_s=self.cfg.keepalive,
            script_name=self.script_name,
            may_accept=self._may_accept,
            log=self.log,
        )
        signal.set_wakeup_fd(self._loop.waker, warn_on_full_buffer=False)
        while self.alive and not self._served_its_share() and self._has_master():
            self._turn(_TURN_S)
        self._leave()
        self.log.info("Worker exiting (pid: %s)", self.pid)
        logging.shutdown()
        # Not by way of the interpreter's end, which joins threads that may be stuck (in a download of the model, say)
        # and takes up to a second to clear torch away.
        os._exit(0)

    def _turn(self, timeout_s: float) -> None:
        self.notify()
        if time.monotonic() >= self._last_call_at:
            self._last_call_at = math.inf
            self.on_last_call()
        self._loop.turn(timeout_s)

    def say_ready(self) -> None:
        """Let siblings leave newcomers to this process; to be called before anybody is told that it is ready."""
        self._siblings.say_ready()
        self._may_serve = True

    def others_serve(self) -> bool:
        """Tell whether a sibling can serve newcomers now."""
        return self._siblings.any_serving()

    def _may_accept(self) -> bool:
        """Tell whether newcomers are served best here: it may be a sibling that is ready, and stays."""
        return (self._may_serve and not self._closing) or not self.others_serve()

    def _served_its_share(self) -> bool:
        """Tell so of a worker that is ready only: health checks must not end one that loads for long."""
        return self._may_serve and bool(self._loop.served >= self.max_requests)

    def _has_master(self) -> bool:
        return bool(self.ppid == os.getppid())

    def _leave(self) -> None:
        self.alive = False
        self._siblings.say_leaving()
        if self._wait_for_successor():
            self._leave_the_rest_to_siblings()
        else:
            self._drain()

    def _wait_for_successor(self) -> bool:
        """Serve on until a sibling can take this one's place; tell whether one can. None can when the service stops."""
        if not (self._may_serve and self.waits_for_successor) or self._interrupted:
            return self._siblings.any_ready()
        while self._has_master():
            expected = self._was_told or self.succession.ask(self.ppid)
            ready = self._siblings.any_ready()
            coming = self._siblings.any_loading() or self.succession.is_one_forked()
            # All who leave may do so at once: they wait for all who take their places.
            if ready and expected and not coming:
                return True
            if self._was_told and not (ready or coming or self.succession.has_new_master()):
                return False
            self._turn(_POLL_SIBLINGS_S)
        return False

    @property
    def _was_told(self) -> bool:
        return self._told_at < math.inf

    def _leave_the_rest_to_siblings(self) -> None:
        """Finish what there is, and end connections one by one; take new ones only while no sibling serves any more."""
        self._closing = True
        self._siblings.say_closed()
        kept_until = time.monotonic() + _KEPT_ALIVE_S
        end = self._end_of_grace(time.monotonic())
        while self._loop.busy and (now := time.monotonic()) < end - _LAST_ANSWERS_S:
            if now > kept_until:
                self._loop.close_idle(newcomers=self.others_serve())
            self._turn(_POLL_SIBLINGS_S)
        self._finish(end)

    def _end_of_grace(self, since: float) -> float:
        """Return when the process ends at the latest, and have the last call made in time for answers before that."""
        grace = self.cfg.graceful_timeout
        end = since + grace
        self._last_call_at = end - min(_LAST_ANSWERS_S, grace / 2)
        return float(end)

    def _drain(self) -> None:
        """Finish what was accepted; tell newcomers to come again until then, and for a moment more."""
        # The master counts from when it told this process, which may have waited for a successor since.
        now = time.monotonic()
        end = self._end_of_grace(max(now - _LOST_IN_WAITING_S, min(now, self._told_at)))
        self._closing = True
        accepted = set(self._loop.accepted())
        self._siblings.say_closed()
        self.on_drain()
        while accepted.intersection(self._loop.accepted()) and time.monotonic() < end:
            self._turn(_TURN_S)
        last_call = time.monotonic() + _LAST_CALL_S
        while (left := last_call - time.monotonic()) > 0:
            self._turn(left)
        self._finish(end)

    def _finish(self, end: float) -> None:
        """Take no more connections, and end those that there are with their answers."""
        self._loop.newcomers.stop()
        self._loop.close_idle()
        while self._loop.busy and time.monotonic() < end:
            self._turn(0.1)

    def _serve(self, connection: Connection) -> None:
        """Answer one request, in a thread of the pool."""
        exchange, environ = connection.exchange, connection.environ
        environ[ARRIVED_AT], environ[ABANDONED] = exchange.arrived_at, partial(has_hung_up, connection.sock)
        send = partial(connection.send, wake=partial(self._loop.write_soon, connection))
        answer = Answer(exchange, send, close=self._closing or not (self._may_serve and exchange.complete))
        try:
            answer.run(self.wsgi, environ)
        except OSError as error:
            self.log.debug("The client of a request has gone, or does not read its answer: %r", error)
        took = timedelta(seconds=time.monotonic() - exchange.arrived_at)
        self.log.access(answer, exchange.text_headers(), environ, took)
