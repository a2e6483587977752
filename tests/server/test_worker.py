"""The worker: clients that are slow, odd or hostile cost others nothing, and plain HTTP stays what it was.

The service has 20 threads and room for 350 connections, so that few clients are many.
"""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPResponse
from pathlib import Path

import pytest

from captioning.server.event_loop import HEAD_TIMEOUT_S
from captioning.server.exchange import MAX_HEAD_BYTES
from tests.conftest import SAMPLES, Service

PICTURE = SAMPLES[0].read_bytes()
UPLOAD = b"POST /local-caption HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(
    PICTURE
)
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
CONNECTIONS = 350


@pytest.fixture(scope="module")
def small(start_service: Callable[..., Service]) -> Service:
    arguments = f"--worker-connections={CONNECTIONS}"
    return start_service(MAX_CONCURRENT_REQUESTS="4", GUNICORN_CMD_ARGS=arguments).wait_until_ready()


def connect(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=30)


@contextmanager
def clients(service: Service, count: int, says: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connect that many times; each client says the same and stays."""
    with ExitStack() as stack:
        connected = []
        for _ in range(count):
            connected.append(stack.enter_context(connect(service)))
            connected[-1].sendall(says)
        yield connected


def read_answers(client: socket.socket, count: int) -> bytes:
    """Read until that many answers have come, the last of them whole, or the server hangs up."""
    answers = b""
    while answers.count(b"\r\n\r\n") < count or not answers.endswith(b"}\n"):
        piece = client.recv(65_536)
        if not piece:
            break
        answers += piece
    return answers


def has_ended(client: socket.socket) -> bool:
    """Wait until the server hangs up."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / 100


def test_headers_that_never_end_hold_no_thread_and_are_given_up(small: Service) -> None:
    """Three hundred clients stop in mid-header, drip or say nothing; others do not notice."""
    with (
        clients(small, 100) as silent,
        clients(small, 100, b"POST /local-caption HTTP/1.1\r\nHost: x\r\nX-Lo") as stopped,
        clients(small, 100, b"GET / HTTP/1.1\r\nX-Drip: ") as dripping,
    ):
        slow = [*silent, *stopped, *dripping]
        assert small.get("/healthz").status_code == 200
        assert small.upload(PICTURE).status_code == 200
        assert not select.select(slow, [], [], 0)[0], "they were given up before the others were answered"
        end = threading.Event()

        def drip() -> None:
            while not end.wait(0.5):
                for client in dripping:
                    with suppress(OSError):
                        client.sendall(b"x")

        threading.Thread(target=drip, daemon=True).start()
        used = cpu_seconds(small.worker_pids()[0])
        started = time.monotonic()
        assert all(has_ended(client) for client in slow)
        end.set()
        assert time.monotonic() - started > HEAD_TIMEOUT_S / 2
        assert cpu_seconds(small.worker_pids()[0]) - used < HEAD_TIMEOUT_S / 4


def test_more_connections_than_there_is_room_for_cost_the_oldest_theirs(small: Service) -> None:
    with clients(small, CONNECTIONS + 50, b"GET / HTTP/1.1\r\nX-") as slow:
        assert small.get("/healthz").status_code == 200
        assert small.upload(PICTURE).status_code == 200
        assert all(has_ended(client) for client in slow[:50])
        assert not select.select(slow[-50:], [], [], 0)[0]


def test_clients_that_do_not_hang_up_stop_nobody(small: Service) -> None:
    """gunicorn's own main loop would wait two seconds for each of them."""
    with clients(small, 40, b"GET /healthz HTTP/1.0\r\n\r\n") as staying:
        started = time.monotonic()
        assert all(b" 200 OK\r\n" in read_answers(client, 1) for client in staying)
        assert small.get("/healthz").status_code == 200
        assert time.monotonic() - started < 40


def test_headers_may_come_byte_by_byte(small: Service) -> None:
    with connect(small) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for position in range(len(HEALTH)):
            client.sendall(HEALTH[position : position + 1])
            time.sleep(0.002)
        assert b'"ok"' in read_answers(client, 1)


@pytest.mark.parametrize("cut", [len(UPLOAD) - 1, len(UPLOAD), len(UPLOAD) + 100])
def test_a_body_may_come_with_its_headers_or_after_them(small: Service, cut: int) -> None:
    whole = UPLOAD + PICTURE
    with connect(small) as client:
        client.sendall(whole[:cut])
        time.sleep(0.1)
        client.sendall(whole[cut:])
        assert b'"output"' in read_answers(client, 1)


def test_a_connection_serves_one_request_after_another(small: Service) -> None:
    with connect(small) as client:
        for request in (HEALTH, UPLOAD + PICTURE, HEALTH):
            client.sendall(request[:20])
            time.sleep(0.05)
            client.sendall(request[20:])
            assert b" 200 OK\r\n" in read_answers(client, 1)


def test_pipelined_requests_are_answered_in_order(small: Service) -> None:
    ready = HEALTH.replace(b"healthz", b"readyz")
    with connect(small) as client:
        client.sendall(HEALTH + UPLOAD + PICTURE + ready + HEALTH[:10])
        answers = read_answers(client, 3)
        assert answers.index(b'"ok"') < answers.index(b'"output"') < answers.index(b'"ready"')
        client.sendall(HEALTH[10:])
        assert b'"ok"' in read_answers(client, 1)


def test_a_client_that_sends_its_last_request_and_half_closes_is_answered(small: Service) -> None:
    with connect(small) as client:
        client.sendall(HEALTH + HEALTH)
        client.shutdown(socket.SHUT_WR)
        assert read_answers(client, 2).count(b'"ok"') == 2
        assert has_ended(client)


def test_a_client_may_ask_whether_to_go_on(small: Service) -> None:
    with connect(small) as client:
        client.sendall(UPLOAD[:-2] + b"Expect: 100-continue\r\n\r\n")
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(PICTURE)
        assert b'"output"' in read_answers(client, 1)


LINE = b"GET /healthz HTTP/1.1\r\n"
POST = b"POST /local-caption HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
REFUSED = {
    "long line": (b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 8_200), 414),
    "long field": (LINE + b"Host: x\r\nX: %s\r\n\r\n" % (b"a" * 9_000), 431),
    "many fields": (LINE + b"Host: x\r\n%s\r\n" % b"".join(b"X-%d: a\r\n" % n for n in range(200)), 431),
    "endless": (LINE + b"Host: x\r\nX: %s" % (b"a" * (MAX_HEAD_BYTES + 10_000)), 431),
    "bare LF": (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    "bare LF, endless": (LINE + b"Host: x\r\nX: a\nb", 400),
    "bare CR": (LINE + b"Host: x\r\nX: a\rb\r\n\r\n", 400),
    "blank lines": (b"\r\n\r\n" + HEALTH, 400),
    "LF": (b"\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "control character": (LINE + b"Host: x\r\nX: a\x01b\r\n\r\n", 400),
    "folded line": (LINE + b"Host: x\r\nX: a\r\n b\r\n\r\n", 400),
    "space before colon": (LINE + b"Host : x\r\n\r\n", 400),
    "no Host": (LINE + b"\r\n", 400),
    "two Hosts": (LINE + b"Host: x\r\nHost: x\r\n\r\n", 400),
    "two Hosts in HTTP/1.0": (b"GET /healthz HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n", 400),
    "Host with a path": (LINE + b"Host: x/y\r\n\r\n", 400),
    "Host with a scheme": (LINE + b"Host: http://x\r\n\r\n", 400),
    "Host with a user": (LINE + b"Host: a@x\r\n\r\n", 400),
    "Host of two words": (LINE + b"Host: x y\r\n\r\n", 400),
    "Host with a bad port": (LINE + b"Host: x:http\r\n\r\n", 400),
    "two types": (POST + b"Content-Type: text/plain\r\nContent-Length: 1\r\n\r\na", 400),
    "two lengths": (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\na", 400),
    "no length": (POST + b"Content-Length: +1\r\n\r\na", 400),
    "length and chunks": (POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunks in HTTP/1.0": (POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "unknown coding": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    "unknown expectation": (POST + b"Expect: tea\r\nContent-Length: 1\r\n\r\n", 417),
    "unknown version": (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    "no path": (b"GET healthz HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "tunnel": (b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
}


@pytest.mark.parametrize(("says", "status"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_parsed_is_refused_in_the_form_of_all_errors(small: Service, says: bytes, status: int) -> None:
    with connect(small) as client:
        client.sendall(says)
        answer = HTTPResponse(client)
        answer.begin()
        told = json.loads(answer.read())
        assert client.recv(1) == b""
    assert answer.status == status
    assert told.keys() == {"error", "code", "requestId"}
    assert (told["code"], told["requestId"]) == ("invalid_request", answer.headers["X-Request-Id"])


SERVED = {
    "old": b"GET /healthz HTTP/1.0\r\n\r\n",
    "empty Host": LINE + b"Host:\r\n\r\n",
    "Host with a port": LINE + b"Host: a-b.example:8000\r\n\r\n",
    "Host that is an address": LINE + b"Host: [::1]:8000\r\n\r\n",
    "whole URL": b"GET http://x.example/healthz?a=b HTTP/1.1\r\nHost: y\r\n\r\n",
    "escapes": b"GET /%68ealthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "an empty line before it": b"\r\n" + HEALTH,
    "an odd name": LINE + b"Host: x\r\nX_Odd: a\r\n\r\n",
}


@pytest.mark.parametrize("says", SERVED.values(), ids=SERVED.keys())
def test_odd_but_valid_http_is_served(small: Service, says: bytes) -> None:
    with connect(small) as client:
        client.sendall(says)
        assert b'"ok"' in read_answers(client, 1)


def test_tls_is_refused_at_the_start(start_service: Callable[..., Service]) -> None:
    service = start_service(GUNICORN_CMD_ARGS=f"--certfile={__file__} --keyfile={__file__}")
    assert service.process.wait(timeout=60) == 1
    assert "no TLS" in service.log.read_text()
