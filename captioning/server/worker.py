"""gunicorn's threaded worker, for clients that are slow or hostile and for stops that lose nothing.

What it changes in `gunicorn.workers.gthread` (27.0.1), which is the worker to read first:

- A thread takes a request only when all its headers have come. The main loop collects them, up to a size and a
  time, so clients that never finish theirs hold no thread, and the oldest of them make room for newcomers.
- Nor does the main loop, or a thread, wait for a client that is slow to hang up, to send a body that nobody
  wants, or to read its answer.
- A stop lets everything finish that was accepted. Until then newcomers are still answered: the application,
  told by `on_drain`, turns captions away.

It speaks HTTP/1.1 without TLS, as behind Render's proxy. The headers are read, not peeked at: what was peeked at stays
readable, and the loop would spin on it.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import resource
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from http import HTTPStatus
from selectors import EVENT_READ
from typing import Any

from gunicorn.http import get_parser
from gunicorn.http.errors import ParseException
from gunicorn.workers.gthread import TConn, ThreadWorker

from captioning.server.refusals import refusal, status_of
from captioning.web.request_deadline import ARRIVED_AT

HEAD_TIMEOUT_S = 10.0
"""From the first byte of a request, or from the connection, to its last header. A browser on a bad line needs two
seconds; gateways and proxies send them in one piece."""

MAX_HEAD_BYTES = 32_768
"""As nginx by default (large_client_header_buffers). Times the connections this is memory: 35 MB at the most."""
_SEND_TIMEOUT_S = 10  # without any progress, when the client does not read its answer
_LINGER_S = 2.0  # for a client that was refused while it sent; a close with bytes unread would lose it the answer
_UNWANTED_BODY_S = 0.1  # for the rest of a body that nobody read; a later one costs the client its connection
_LAST_CALL_S = 0.2  # for requests that were on their way here when the last accepted one was done

# The blank line, or a bare LF, to which gunicorn answers 400 at once (RFC 9112, section 2.2).
_HEAD_IS_WHOLE = re.compile(rb"\r\n\r\n|(?<!\r)\n")
_PIECE = 8_192


class Connection(TConn):  # type: ignore[misc]
    """Hold one client's connection, with what has come of its next request's headers."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.head = bytearray()
        self.arrived_at = 0.0
        self._searched = 0

    def receive(self) -> bool:
        """Read what has come; tell whether more may come."""
        try:
            piece = self.sock.recv(_PIECE)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.head += piece
        return bool(piece)

    def head_is_whole(self) -> bool:
        """Tell whether the blank line has come, or what makes waiting for it pointless."""
        if _HEAD_IS_WHOLE.search(self.head, self._searched):
            return True
        self._searched = max(0, len(self.head) - len(b"\r\n\r"))
        return False

    def take_head(self) -> bytes:
        """Hand over what was read."""
        head = bytes(self.head)
        self.head.clear()
        self._searched = 0
        return head


class Worker(ThreadWorker):  # type: ignore[misc]
    """Serve requests in threads, and connections that have none in the main loop."""

    on_drain: Callable[[], object] = staticmethod(lambda: None)
    """Called when the process begins to stop, in the main thread."""

    worker_connections: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Three lines of connections without a request in the works, each in the order in which they expire.
        self.pending_conns: dict[Connection, None] = {}
        self.keepalived_conns: dict[Connection, None] = {}
        self.lingering_conns: dict[Connection, None] = {}
        self._in_work: set[Connection] = set()
        self._accepted: set[Connection] = set()
        self._thread = threading.local()
        self._interrupted = False

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Refuse what this worker would serve wrongly."""
        if cfg.is_ssl:
            sys.exit("This worker speaks no TLS: drop --certfile and --keyfile, and put a proxy in front.")
        super().check_config(cfg, log)

    def init_process(self) -> None:
        """Take as many descriptors as the connections may need."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Half of them are for downloads, look-ups, the model's files and the rest of the process.
        wanted = 2 * self.worker_connections
        if soft < wanted:
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self.worker_connections = min(self.worker_connections, soft // 2)
        super().init_process()

    def load_wsgi(self) -> None:
        """Tell the application when each request's headers had arrived."""
        super().load_wsgi()
        application = self.app.wsgi()

        def with_arrival(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            environ[ARRIVED_AT] = self._thread.connection.arrived_at
            answer: Iterable[bytes] = application(environ, start_response)
            return answer

        self.wsgi = with_arrival

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Drain on SIGINT and SIGQUIT as on SIGTERM; a second Ctrl-C ends it at once."""
        if sig == signal.SIGINT:
            if self._interrupted:
                os._exit(0)
            self._interrupted = True
        self.handle_exit(sig, frame)

    def run(self) -> None:
        """Serve until a signal says stop; then drain, and end the process."""
        self.poller.register(self.method_queue.fileno(), EVENT_READ, self.method_queue.run_callbacks)
        while self.alive and self.is_parent_alive():
            self._turn(1.0)
        self._drain()
        self.log.info("Worker exiting (pid: %s)", self.pid)
        logging.shutdown()
        # Not by way of the interpreter's end, which joins threads that may be stuck (in a download of the model, say)
        # and takes up to a second to clear torch away.
        os._exit(0)

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection; the headers of its first request must come soon."""
        try:
            client, address = listener.accept()
        except OSError as error:  # most often, a sibling was faster or the client has gone
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._make_room()
            return
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_TIMEOUT_S, 0))
        self.nr_conns += 1
        if self.nr_conns >= self.worker_connections:
            self._make_room()
        self._await_head(Connection(self.cfg, client, address, listener.getsockname()))

    def handle(self, conn: Connection) -> Any:
        """Serve one request, in a thread of the pool."""
        self._thread.connection = conn
        return super().handle(conn)

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """Refuse HTTP that cannot be parsed as the service refuses all else; gunicorn would do it in HTML."""
        if not isinstance(exc, ParseException):
            super().handle_error(req, client, addr, exc)
            return
        self.log.warning("Invalid request from %s: %s", addr[0] if addr else "a socket", exc)
        with suppress(OSError):
            client.sendall(refusal(status_of(exc)))

    def finish_request(self, conn: Connection, fs: Future[Any]) -> None:
        """Take a connection back from its thread, in the main loop."""
        self._in_work.discard(conn)
        self._accepted.discard(conn)
        if fs.exception() is not None or not fs.result():
            self._linger(conn)
            return
        conn.sock.setblocking(False)
        if pipelined := conn.parser.unreader.take_buffered():
            conn.head += pipelined
            self._await_head(conn)
        else:
            self._await(conn, self.keepalived_conns, self.cfg.keepalive, self._begin_next_request)

    def _keepalive_after(self, conn: Connection, keepalive: bool) -> bool:
        return keepalive and bool(conn.parser.finish_body(deadline=time.monotonic() + _UNWANTED_BODY_S))

    def _turn(self, timeout_s: float) -> None:
        """Do what is due, after waiting for it that long at most."""
        self.notify()
        self.set_accept_enabled(self.nr_conns < self.worker_connections)
        self.wait_for_and_dispatch_events(timeout_s)
        now = time.monotonic()
        for line in (self.pending_conns, self.keepalived_conns, self.lingering_conns):
            while line and (oldest := next(iter(line))).timeout <= now:
                self._close(oldest)

    def _drain(self) -> None:
        """Finish what was accepted; answer newcomers until then, and for a moment more."""
        end = time.monotonic() + self.cfg.graceful_timeout
        self.on_drain()
        self._accepted = set(self._in_work)
        while self._accepted and time.monotonic() < end:
            self._turn(1.0)
        last_call = time.monotonic() + _LAST_CALL_S
        while (left := last_call - time.monotonic()) > 0:
            self._turn(left)
        self.worker_connections = 0  # accept no more
        for connection in [*self.pending_conns, *self.keepalived_conns]:
            self._close(connection)
        while (self._in_work or self.lingering_conns) and time.monotonic() < end:
            self._turn(0.1)

    def _await(
        self,
        connection: Connection,
        line: dict[Connection, None],
        seconds: float,
        when_readable: Callable[[Connection], None],
    ) -> None:
        def readable(_: socket.socket) -> None:
            if connection in line:  # else it was closed by what came before in the same turn
                when_readable(connection)

        connection.timeout = time.monotonic() + seconds
        line[connection] = None
        self.poller.register(connection.sock, EVENT_READ, readable)

    def _await_no_more(self, connection: Connection) -> None:
        for line in (self.pending_conns, self.keepalived_conns, self.lingering_conns):
            if connection in line:
                del line[connection]
                self.poller.unregister(connection.sock)

    def _await_head(self, connection: Connection) -> None:
        self._await(connection, self.pending_conns, HEAD_TIMEOUT_S, self._take_head)
        self._take_head(connection)  # it is often there already

    def _begin_next_request(self, connection: Connection) -> None:
        self._await_no_more(connection)
        self._await_head(connection)

    def _take_head(self, connection: Connection) -> None:
        if not connection.head_is_whole() and not connection.receive():
            self._close(connection)
        elif connection.head_is_whole():
            self._hand_on(connection)
        elif len(connection.head) > MAX_HEAD_BYTES:
            self._await_no_more(connection)
            with suppress(OSError):
                connection.sock.sendall(refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE))
            self._linger(connection)

    def _hand_on(self, connection: Connection) -> None:
        """Give a connection to the pool, with the headers before everything that is yet to be read."""
        self._await_no_more(connection)
        if connection.parser is None:
            connection.parser = get_parser(self.cfg, connection.sock, connection.client)
        connection.parser.unreader.unread(connection.take_head())
        connection.data_ready = True
        connection.arrived_at = time.monotonic()
        self._in_work.add(connection)
        self.enqueue_req(connection)

    def _linger(self, connection: Connection) -> None:
        """Close in two steps, as RFC 9112, section 9.6, asks: stop sending, then wait for the client to."""
        try:
            connection.sock.setblocking(False)
            connection.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(connection)
        else:
            self._await(connection, self.lingering_conns, _LINGER_S, self._discard)

    def _discard(self, connection: Connection) -> None:
        try:
            if connection.sock.recv(_PIECE * 8):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._close(connection)

    def _make_room(self) -> None:
        for line in (self.lingering_conns, self.pending_conns, self.keepalived_conns):
            if line:
                self._close(next(iter(line)))
                return

    def _close(self, connection: Connection) -> None:
        self._await_no_more(connection)
        self.nr_conns -= 1
        connection.close()
