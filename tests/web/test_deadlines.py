"""How long a request may take, who may shorten that, and that nothing is computed for a client that has gone."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from captioning.deadline import Deadline
from captioning.errors import DeadlineExceeded, InvalidParameter
from captioning.server.connection import has_hung_up
from captioning.web.request_deadline import ABANDONED, ARRIVED_AT, request_deadline
from tests.bad_servers import BadServer, Connection, say_nothing
from tests.conftest import SAMPLES, Service, wait_until

PICTURE = SAMPLES[0].read_bytes()
HEADER = "X-Request-Timeout-Ms"
ASK = b"POST /local-caption HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
UPLOAD = (
    b"POST /local-caption?numBeams=5 HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nX-Request-Id: %s\r\n"
    b"Content-Length: %d\r\n\r\n"
)


def request(**environ: Any) -> Request:
    return Request({**EnvironBuilder().get_environ(), **environ})


def request_that_wants(milliseconds: str) -> Request:
    return request(HTTP_X_REQUEST_TIMEOUT_MS=milliseconds)


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Connect a client to a server over TCP: (server's end, client's end)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with client, server:
        yield server, client


def deadline_of(server: socket.socket) -> Deadline:
    return request_deadline(request(**{ABANDONED: partial(has_hung_up, server)}), 30)


def test_a_request_has_the_time_of_the_settings() -> None:
    assert 29 < request_deadline(request(), 30).remaining() <= 30


@pytest.mark.parametrize(("wanted", "seconds"), [("1500", 1.5), ("0007000", 7), ("30001", 30), ("9" * 19, 30)])
def test_the_caller_may_lower_its_time_and_not_raise_it(wanted: str, seconds: float) -> None:
    left = request_deadline(request_that_wants(wanted), 30).remaining()
    assert seconds - 1 < left <= seconds


@pytest.mark.parametrize("wanted", ["", "0", "-5", "+5", "1.5", "1e3", "1_000", "5 s", "soon", "5, 6", "٣", "9" * 20])
def test_a_malformed_time_is_refused_and_the_header_named(wanted: str) -> None:
    with pytest.raises(InvalidParameter, match=HEADER):
        request_deadline(request_that_wants(wanted), 30)


def test_the_time_counts_from_the_arrival() -> None:
    """Not from when a thread came free for it."""
    with pytest.raises(DeadlineExceeded):
        request_deadline(request(**{ARRIVED_AT: time.monotonic() - 31}), 30).check()


def test_a_client_that_waits_or_asks_for_more_has_not_gone(connection: tuple[socket.socket, socket.socket]) -> None:
    server, client = connection
    deadline_of(server).check()
    client.sendall(b"GET /healthz HTTP/1.1\r\n")
    deadline_of(server).check()
    assert server.recv(100) == b"GET /healthz HTTP/1.1\r\n"


@pytest.mark.parametrize("how", ["close", "half-close", "reset"])
def test_a_client_that_hung_up_has_gone(connection: tuple[socket.socket, socket.socket], how: str) -> None:
    server, client = connection
    deadline = deadline_of(server)
    if how == "half-close":
        client.shutdown(socket.SHUT_WR)
    else:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", how == "reset", 0))
        client.close()
    wait_until(deadline.abandoned, timeout_s=10)
    with pytest.raises(DeadlineExceeded, match="the client has gone"):
        deadline.check()


@pytest.fixture(scope="module")
def one_by_one(start_service: Callable[..., Service]) -> Service:
    fetching = {"FETCH_ALLOW_PRIVATE_ADDRESSES": "true", "FETCH_ALLOWED_PORTS": "*"}
    return start_service(**fetching, BATCH_MAX_SIZE="1", MAX_CONCURRENT_REQUESTS="50").wait_until_ready()


def test_a_lowered_time_ends_a_request_on_the_real_service(one_by_one: Service) -> None:
    with BadServer(say_nothing) as silent:
        late = one_by_one.post(json={"imageUrl": silent.url("/a.png")}, headers={HEADER: "200"})
    assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
    malformed = one_by_one.post(json={"imageUrl": "https://example.com/"}, headers={HEADER: "soon"})
    assert (malformed.status_code, malformed.json()["code"]) == (400, "invalid_parameter")
    assert HEADER in malformed.json()["error"]


def test_a_download_ends_when_its_client_hangs_up(one_by_one: Service) -> None:
    """Well before FETCH_TIMEOUT_S, of 15 seconds here."""
    asked, hung_up = threading.Event(), threading.Event()

    def say_nothing_more(connection: Connection) -> None:
        connection.read_request()
        asked.set()
        if connection.client.recv(1) == b"":
            hung_up.set()

    with BadServer(say_nothing_more) as silent:
        body = json.dumps({"imageUrl": silent.url("/a.png")}).encode()
        with socket.create_connection(("127.0.0.1", one_by_one.port), timeout=60) as client:
            client.sendall(ASK % len(body) + body)
            assert asked.wait(60)
        assert hung_up.wait(10)


def pictures_in_the_queue(service: Service) -> float:
    lines = service.get("/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("captioning_queue_pictures"))


@contextmanager
def uploads(service: Service, name: str, count: int) -> Iterator[list[socket.socket]]:
    clients = [socket.create_connection(("127.0.0.1", service.port), timeout=60) for _ in range(count)]
    try:
        for number, client in enumerate(clients):
            picture = PICTURE + f"{name} {number}".encode()  # what follows its end makes another picture of it
            client.sendall(UPLOAD % (name.encode(), len(picture)) + picture)
        yield clients
    finally:
        for client in clients:
            client.close()


def test_the_model_captions_nothing_for_clients_that_hung_up_in_the_queue(one_by_one: Service) -> None:
    """Of forty that ask at once, three quarters leave while they wait in the queue; the others get their captions."""
    (worker,) = one_by_one.worker_pids()
    with uploads(one_by_one, "stays", 10) as staying:
        with uploads(one_by_one, "leaves", 30):
            wait_until(lambda: pictures_in_the_queue(one_by_one) >= 20)
            os.kill(worker, signal.SIGSTOP)  # so that the queue is as long when they have left, however slow this is
        os.kill(worker, signal.SIGCONT)
        for client in staying:
            assert client.recv(100).startswith(b"HTTP/1.1 200")
    end = time.monotonic() + 60
    requests: list[dict[str, Any]] = []
    while len(requests) < 40:
        assert time.monotonic() < end
        time.sleep(0.1)
        events = [json.loads(line) for line in one_by_one.log.read_text().splitlines(keepends=True) if line[-1] == "\n"]
        requests = [event for event in events if event.get("request_id") in ("stays", "leaves")]
    dropped = [request for request in requests if "the client has gone" in request.get("detail", "")]
    assert len([request for request in requests if "generate_ms" in request]) == 40 - len(dropped)
    assert len(dropped) >= 10
    assert any("decode_ms" in request for request in dropped), "none was dropped from the queue"
    assert {(request["request_id"], request["code"]) for request in dropped} == {("leaves", "deadline_exceeded")}
