"""What one connection meets is its own: neither a bug nor the system's limits end the main loop for all others."""

from __future__ import annotations

import logging
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection

import pytest

from captioning.byte_budget import ByteBudget
from captioning.server.connection import Connection
from captioning.server.event_loop import EventLoop
from captioning.web.body import BodyRules
from tests.conftest import wait_until

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Loop:
    """A main loop that runs in a thread, and answers as it is told."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.may_fail = threading.Event()
        self.port = 0

    def serve(self, connection: Connection) -> None:
        if connection.environ["PATH_INFO"] == "/bug":
            self.asked.set()
            self.may_fail.wait(60)
            raise RuntimeError("a bug")
        exchange = connection.exchange
        for piece in (exchange.start_answer("200 OK", [("Content-Length", "0")], close=False), exchange.end_answer()):
            connection.send(piece, lambda: None)

    def status(self, path: str = "/") -> int:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=60)) as client:
            client.request("GET", path)
            return client.getresponse().status


@pytest.fixture
def loop() -> Iterator[Loop]:
    told = Loop()
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        told.port = listener.getsockname()[1]
        events = EventLoop(
            [listener],
            told.serve,
            bodies=BodyRules(1024, ByteBudget(10, largest=10), lambda environ: None),
            max_connections=8,
            threads=2,
            keepalive_s=60,
            script_name="",
            may_accept=lambda: True,
            log=logging.getLogger("test"),
        )

        def turn() -> None:
            while not over.is_set():
                events.turn(0.05)

        thread = threading.Thread(target=turn)
        thread.start()
        yield told
        told.may_fail.set()
        over.set()
        thread.join()
        events.newcomers.stop()
        while events.busy:  # so that no socket stays behind
            events.close_idle()
            events.turn(0.05)


def test_a_bug_in_a_request_whose_client_has_gone(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_connection(("127.0.0.1", loop.port)) as client:
        client.sendall(GET.replace(b"/ ", b"/bug "))
        assert loop.asked.wait(60)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # its end is a reset
    loop.may_fail.set()
    wait_until(lambda: "did not answer" in caplog.text)
    assert loop.status() == 200
    assert loop.status("/bug") == 500


def test_a_bug_met_by_the_loop_costs_that_connection(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    received = Connection.receive

    def receive(connection: Connection, size: int) -> bytes | None:
        piece = received(connection, size)
        if piece and b"/poison" in piece:
            raise RuntimeError("a bug")
        return piece

    monkeypatch.setattr(Connection, "receive", receive)
    with socket.create_connection(("127.0.0.1", loop.port), timeout=60) as client:
        client.sendall(GET.replace(b"/ ", b"/poison "))
        assert client.recv(1) == b""
    assert "is closed" in caplog.text
    assert loop.status() == 200


def test_where_the_system_gives_no_more_threads_those_that_there_are_answer(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is there from the start."""

    def no_more(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with socket.create_connection(("127.0.0.1", loop.port), timeout=60) as held:
        monkeypatch.setattr(threading.Thread, "start", no_more)
        held.sendall(GET.replace(b"/ ", b"/bug "))
        assert loop.asked.wait(60)
        with socket.create_connection(("127.0.0.1", loop.port), timeout=60) as client:
            client.sendall(GET)
            loop.may_fail.set()
            assert client.recv(12) == b"HTTP/1.1 200"
