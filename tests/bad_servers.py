"""Small servers on the loopback that behave badly on purpose, for any test that fetches.

    with BadServer(drip(b"HTTP/1.1 200 OK\\r\\n\\r\\n", b"x")) as server:
        fetch(server.url("/picture.png"))

A behaviour is a function of one connection; ``BadServer`` runs it once for each, in a thread, and ends
them all when the block ends.
"""

from __future__ import annotations

import gzip
import itertools
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress

Behaviour = Callable[["Connection"], None]

_GONE = (OSError, ssl.SSLError)


class Connection:
    """One client, as a behaviour sees it."""

    def __init__(self, server: BadServer, client: socket.socket) -> None:
        self.server = server
        self.client = client

    def read_request(self) -> bytes:
        """Read up to the blank line that ends a request's headers, and note it on the server."""
        request = b""
        while b"\r\n\r\n" not in request:
            more = self.client.recv(65_536)
            if not more:
                break
            request += more
        self.server.requests.append(request)
        return request

    def send(self, data: bytes) -> None:
        self.client.sendall(data)
        self.server.bytes_sent += len(data)

    def sleep(self, seconds: float) -> None:
        """Sleep, but not beyond the server's end."""
        if self.server.stopping.wait(seconds):
            raise ConnectionAbortedError


class BadServer:
    """Serve every connection on one loopback port with one behaviour, until closed."""

    def __init__(
        self,
        behaviour: Behaviour,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.behaviour = behaviour
        self.tls = tls
        self.connections = 0
        self.requests: list[bytes] = []
        self.bytes_sent = 0
        self.stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._clients: list[socket.socket] = []
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, port), family=family, backlog=128)
        self.address = address
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name="bad-server", daemon=True)
        self._acceptor.start()

    def url(self, path: str = "/", host: str | None = None) -> str:
        """Return the address of a path on this server, under a host name if one is given."""
        own = f"[{self.address}]" if ":" in self.address else self.address
        return f"{'https' if self.tls else 'http'}://{host or own}:{self.port}{path}"

    def __enter__(self) -> BadServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(5)
        self.end_clients()

    def end_clients(self) -> None:
        """Hang up on every client that is still there."""
        for client in self._clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._clients.append(client)
            thread = threading.Thread(target=self._serve, args=(client,), name="bad-server", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, plain: socket.socket) -> None:
        with suppress(*_GONE), plain:
            if self.tls is None:
                self.behaviour(Connection(self, plain))
                return
            with self.tls.wrap_socket(plain, server_side=True) as client:
                self._clients.append(client)
                self.behaviour(Connection(self, client))


def http_answer(
    body: bytes = b"", *, status: str = "200 OK", headers: Iterable[str] = (), length: bool = True
) -> bytes:
    """Return a whole answer; with ``length`` false, without a Content-Length."""
    lines = [f"HTTP/1.1 {status}", *headers, *([f"Content-Length: {len(body)}"] if length else [])]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def answer_with(raw: bytes) -> Behaviour:
    """Send these bytes, whatever was asked, and hang up."""

    def behave(connection: Connection) -> None:
        connection.read_request()
        connection.send(raw)

    return behave


def answer_in_turn(*raw: bytes) -> Behaviour:
    """Send one of these answers to each connection in turn, the last one ever after."""
    turns = itertools.chain(raw, itertools.repeat(raw[-1]))

    def behave(connection: Connection) -> None:
        connection.read_request()
        connection.send(next(turns))

    return behave


def answer_by_path(answers: dict[str, bytes]) -> Behaviour:
    """Send the answer that belongs to the path that was asked for, or 404."""

    def behave(connection: Connection) -> None:
        path = connection.read_request().split(b" ")[1].decode("latin-1")
        connection.send(answers.get(path, http_answer(status="404 Not Found")))

    return behave


def sleep_before(seconds: float, raw: bytes) -> Behaviour:
    """Answer only after some seconds."""

    def behave(connection: Connection) -> None:
        connection.read_request()
        connection.sleep(seconds)
        connection.send(raw)

    return behave


def drip(start: bytes, drop: bytes, every_s: float = 0.05) -> Behaviour:
    """Send a start, then one drop after another for ever, each well within a timeout of its own."""

    def behave(connection: Connection) -> None:
        connection.read_request()
        connection.send(start)
        while True:
            connection.sleep(every_s)
            connection.send(drop)

    return behave


def flood(start: bytes, wave: bytes) -> Behaviour:
    """Send a start, then the same bytes for ever, as fast as they are taken."""

    def behave(connection: Connection) -> None:
        connection.read_request()
        connection.send(start)
        while not connection.server.stopping.is_set():
            connection.send(wave)

    return behave


def say_nothing(connection: Connection) -> None:
    """Accept, and never say a word: neither TLS nor HTTP."""
    connection.sleep(3600)


def redirect_to(location: str, status: str = "302 Found", body: bytes = b"") -> Behaviour:
    """Redirect every request to one place; the location may hold any latin-1 character."""
    return answer_with(http_answer(body, status=status, headers=[f"Location: {location}"]))


def redirect_in_a_loop(connection: Connection) -> None:
    """Redirect every request to the same path."""
    connection.read_request()
    connection.send(http_answer(status="302 Found", headers=["Location: /again"]))


def gzip_bomb(unpacked_bytes: int, layers: int = 1) -> bytes:
    """Return zeros that were packed a thousand to one, layer upon layer."""
    packed = gzip.compress(bytes(unpacked_bytes), mtime=0)
    for _ in range(layers - 1):
        packed = gzip.compress(packed, mtime=0)
    return packed
