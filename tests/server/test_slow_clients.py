"""Clients that send or read slowly, or not at all, in numbers: they are answered in time, and nobody waits for them.

Times are judged against the same requests just before, or against the service's own limits.
"""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPResponse
from statistics import median

import pytest

from captioning.server.incoming_body import BODY_WINDOW_S
from tests.conftest import SAMPLES, Service

PICTURE = SAMPLES[0].read_bytes()
HEAD = b"POST /local-caption HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
SIZED = HEAD + b"Content-Length: 100000\r\n\r\nabc"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
DOCS = b"GET /docs HTTP/1.1\r\nHost: x\r\n\r\n"
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def busy(start_service: Callable[..., Service]) -> Service:
    """The defaults, and a cache, so that captions cost nothing and waits are the server's own."""
    return start_service().wait_until_ready()


@contextmanager
def clients(service: Service, count: int, says: bytes) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        connected = []
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=60))
            connected.append(client)
            client.setblocking(False)
            with suppress(BlockingIOError):
                client.sendall(says)
            client.settimeout(60)
        yield connected


def timed(ask: Callable[[], object]) -> float:
    started = time.perf_counter()
    ask()
    return time.perf_counter() - started


def health_s(service: Service) -> float:
    return median(timed(lambda: service.get("/healthz")) for _ in range(21))


def answer_of(client: socket.socket) -> tuple[int, dict[str, str]]:
    with closing(HTTPResponse(client)) as answer:
        answer.begin()
        return answer.status, json.loads(answer.read())


@pytest.mark.parametrize("count", [70, 200, 1000])
@pytest.mark.parametrize("says", [SIZED, CHUNKED], ids=["sized", "chunked"])
def test_bodies_that_do_not_come_cost_others_nothing(busy: Service, says: bytes, count: int) -> None:
    """70 of them took all permits, and everybody else was answered 429 for half a minute."""
    busy.upload(PICTURE)
    before = health_s(busy)
    with clients(busy, count, says) as slow:
        assert [busy.upload(PICTURE).status_code for _ in range(10)] == [200] * 10
        assert health_s(busy) < max(10 * before, 0.05)
        assert "\ncaptioning_permits_in_use 0.0\n" in busy.get("/metrics").text
        status, told = answer_of(slow[0])
    assert (status, told["code"]) == (504, "deadline_exceeded")
    assert "slower than" in told["error"]


def test_a_body_that_drips_is_given_up_and_one_that_flows_is_not(busy: Service) -> None:
    """Both take longer than a window; one brings 100 bytes a second, the other 20,000."""
    body = PICTURE + bytes(150_000)
    head = HEAD + b"Content-Length: %d\r\n\r\n" % len(body)
    with clients(busy, 2, head) as (drips, flows):

        def feed(client: socket.socket, size: int) -> None:
            for start in range(0, len(body), size):
                with suppress(OSError):
                    client.sendall(body[start : start + size])
                if select.select([client], [], [], 0.1 if size == 10 else 0.7)[0]:
                    break  # answered

        feeders = [threading.Thread(target=feed, args=pair) for pair in ((drips, 10), (flows, 16_000))]
        started = time.monotonic()
        for feeder in feeders:
            feeder.start()
        assert answer_of(drips)[0] == 504
        assert time.monotonic() - started > 0.9 * BODY_WINDOW_S
        assert answer_of(flows)[0] == 200
        assert time.monotonic() - started > BODY_WINDOW_S
        for feeder in feeders:
            feeder.join()


def test_a_body_must_be_there_by_the_requests_own_deadline(busy: Service) -> None:
    head = HEAD + b"X-Request-Timeout-Ms: 500\r\nContent-Length: 100000\r\n\r\nabc"
    with clients(busy, 1, head) as (late,):
        took = timed(lambda: answer_of(late))
    assert 0.4 < took < BODY_WINDOW_S


@pytest.mark.parametrize(
    ("says", "code"),
    [
        (HEAD + b"Content-Length: 99999999\r\n\r\n", "body_too_large"),
        (HEAD + b"Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n", "body_too_large"),
        (HEAD.replace(b"/local-caption", b"/nowhere") + b"Content-Length: 100000\r\n\r\nabc", "not_found"),
        (HEAD.replace(b"/local-caption", b"/healthz") + b"Content-Length: 100000\r\n\r\nabc", "method_not_allowed"),
        (HEAD + b"X-Request-Timeout-Ms: soon\r\nContent-Length: 3\r\n\r\nabc", "invalid_parameter"),
    ],
    ids=["too long", "too long, asking", "nowhere", "no POST", "bad header"],
)
def test_what_is_refused_by_its_head_is_refused_at_once(busy: Service, says: bytes, code: str) -> None:
    with clients(busy, 1, says) as (client,):
        started = time.perf_counter()
        assert answer_of(client)[1]["code"] == code
        took = time.perf_counter() - started
    assert took < BODY_WINDOW_S / 2


def test_a_caller_without_a_key_is_refused_before_its_body(start_service: Callable[..., Service]) -> None:
    """Else strangers could fill the budget that callers with keys share."""
    service = start_service(API_KEYS="secret").wait_until_ready()
    with clients(service, 1, SIZED) as (stranger,):
        started = time.perf_counter()
        assert answer_of(stranger)[0] == 401
        assert time.perf_counter() - started < BODY_WINDOW_S / 2
    assert service.stop() == 0


def test_chunks_beyond_the_limit_are_refused_when_they_pass_it(busy: Service) -> None:
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    with clients(busy, 1, HEAD + b"Transfer-Encoding: chunked\r\n\r\n") as (client,), suppress(OSError):
        for _ in range(16 * MIB // 0x10000):
            client.sendall(chunk)
        assert answer_of(client)[1]["code"] == "body_too_large"


def test_a_flood_of_tiny_chunks_is_refused(busy: Service) -> None:
    with clients(busy, 1, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 2_000) as (client,):
        status, told = answer_of(client)
    assert (status, told["code"]) == (400, "invalid_request")


def test_uploads_that_do_not_fit_now_wait_in_line(start_service: Callable[..., Service]) -> None:
    """60 of 8 MB at once are 480 MB, where the budget has a tenth of that; 51 of them were refused."""
    service = start_service(CACHE_MAX_ENTRIES="1000", REQUEST_TIMEOUT_S="60").wait_until_ready()
    pictures = [PICTURE + bytes([number]) + bytes(8 * MIB - len(PICTURE)) for number in range(60)]
    (worker,) = service.worker_pids()
    with ThreadPoolExecutor(60) as callers:
        answers = list(callers.map(service.upload, pictures))
    assert Counter(answer.status_code for answer in answers) == {200: 60}
    assert service.worker_pids() == [worker]
    assert service.stop() == 0


def test_pipelined_answers_come_whole_and_in_order_to_a_client_that_reads_late(busy: Service) -> None:
    page = busy.get("/docs").content
    with clients(busy, 1, DOCS * 30) as (client,):
        time.sleep(0.5)
        received = b""
        while received.count(page) < 30:
            piece = client.recv(MIB)
            assert piece, "it was hung up on"
            received += piece


@pytest.mark.parametrize("count", [110, 1000])
def test_answers_that_are_not_read_cost_others_nothing(busy: Service, count: int) -> None:
    """110 clients that asked for many pages and read none took all threads for a quarter of a minute."""
    before = health_s(busy)
    with clients(busy, count, DOCS * 200):
        assert health_s(busy) < max(10 * before, 0.05)
        assert busy.upload(PICTURE).status_code == 200
