"""How the service stops, is told to reload, and survives a worker's death: what was accepted is answered."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.bad_servers import BadServer, Connection, http_answer
from tests.conftest import SAMPLES, Service, wait_until

PICTURE = SAMPLES[0].read_bytes()
FETCHING = {"FETCH_ALLOW_PRIVATE_ADDRESSES": "true", "FETCH_ALLOWED_PORTS": "*"}

Start = Callable[..., Service]
Answer = Future[requests.Response]


class HeldImages(BadServer):
    """Serve a picture to whoever asked, but only once told to."""

    def __init__(self) -> None:
        self._release = threading.Event()
        super().__init__(self._answer)

    def release(self) -> None:
        self._release.set()

    def _answer(self, connection: Connection) -> None:
        connection.read_request()
        assert self._release.wait(60)
        connection.send(http_answer(PICTURE))


@pytest.fixture
def images() -> Iterator[HeldImages]:
    server = HeldImages()
    with server:
        yield server
        server.release()


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as pool:
        yield pool


def hold_requests(service: Service, images: HeldImages, callers: ThreadPoolExecutor, count: int) -> list[Answer]:
    """Have that many requests accepted, each waiting for its picture."""
    already = len(images.requests)
    held = [callers.submit(service.post, json={"imageUrl": images.url("/a.jpg")}) for _ in range(count)]
    wait_until(lambda: len(images.requests) == already + count)
    return held


def readiness(service: Service) -> str:
    return str(service.get("/readyz").json()["status"])


@pytest.mark.parametrize("how", ["TERM", "TERM, preloaded", "INT", "Ctrl-C"])
def test_a_stop_finishes_what_was_accepted_and_refuses_the_rest(
    start_service: Start, images: HeldImages, callers: ThreadPoolExecutor, how: str
) -> None:
    preload = {"GUNICORN_CMD_ARGS": "--preload --bind=127.0.0.1:PORT"} if "preloaded" in how else {}
    service = start_service(**FETCHING, **preload).wait_until_ready()
    gateway = requests.Session()
    assert gateway.get(service.url + "/readyz").status_code == 200
    held = hold_requests(service, images, callers, 8)

    service.process.send_signal(signal.SIGTERM if "TERM" in how else signal.SIGINT)
    if how == "Ctrl-C":  # a terminal sends it to the workers too
        os.kill(service.worker_pids()[0], signal.SIGINT)
    wait_until(lambda: readiness(service) == "draining")

    kept_alive = gateway.post(service.url + "/local-caption", data=PICTURE, headers={"Content-Type": "image/jpeg"})
    for refused in (kept_alive, service.upload(PICTURE)):
        assert (refused.status_code, refused.json()["code"]) == (503, "shutting_down")
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.headers["Connection"] == "close"
    assert service.get("/readyz").status_code == 503
    assert service.get("/healthz").status_code == 200
    assert service.process.poll() is None

    images.release()
    assert [answer.result(60).status_code for answer in held] == [200] * 8
    assert service.process.wait(timeout=30) == 0
    assert "Traceback" not in service.log.read_text()


@contextmanager
def half_an_upload(service: Service) -> Iterator[socket.socket]:
    """Send an upload's head and half of its body; the rest, ``PICTURE[1000:]``, is the test's to send."""
    head = b"POST /local-caption HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as client:
        client.sendall(head % len(PICTURE) + PICTURE[:1000])
        wait_until(lambda: service.get("/healthz").ok)  # so the main loop has been round
        yield client


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
def test_a_bulk_request_that_takes_too_long_is_answered_with_what_is_done(
    start_service: Start, images: HeldImages, callers: ThreadPoolExecutor, how: signal.Signals, accept: str
) -> None:
    """Its second picture never comes, and its third has to wait for that; a reload leaves no more time than a stop."""
    limits = {"MAX_CONCURRENT_REQUESTS": "4", "REQUEST_TIMEOUT_S": "2", "FETCH_TIMEOUT_S": "300"}
    service = start_service(**FETCHING, **limits).wait_until_ready()
    alone = service.upload(PICTURE).json()
    data_url = "data:;base64," + base64.b64encode(PICTURE).decode()
    body = {"imageUrls": [data_url, images.url("/a.jpg"), images.url("/b.jpg")]}
    url = f"{service.url}/local-captions"
    bulk = callers.submit(requests.post, url, json=body, headers={"Accept": accept}, timeout=120)
    wait_until(lambda: len(images.requests) == 1)
    service.process.send_signal(how)
    answer = bulk.result(60)
    assert answer.status_code == 200
    lines = accept == "application/x-ndjson"
    outputs = list(map(json.loads, answer.text.splitlines())) if lines else answer.json()["outputs"]
    assert [output.pop("index", None) for output in outputs] == ([0, 1, 2] if lines else [None] * 3)
    assert outputs[0] == alone
    assert [output["code"] for output in outputs[1:]] == ["shutting_down"] * 2
    service.stop()


def test_an_upload_whose_head_had_come_is_accepted_though_its_body_comes_later(start_service: Start) -> None:
    service = start_service().wait_until_ready()
    with half_an_upload(service) as client:
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: readiness(service) == "draining")
        client.sendall(PICTURE[1000:])
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    assert service.process.wait(timeout=30) == 0


def test_a_drain_that_begins_while_the_model_loads_stays_a_drain(start_service: Start) -> None:
    service = start_service()
    wait_until(lambda: "Booting worker" in service.log.read_text())
    assert readiness(service) == "loading"
    with half_an_upload(service) as client:
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: readiness(service) == "draining")
        end = time.monotonic() + 3  # the model is there before that, or it never comes
        while time.monotonic() < end:
            assert readiness(service) == "draining"
            assert service.upload(PICTURE).json()["code"] == "shutting_down"
        client.sendall(PICTURE[1000:])
        assert client.recv(100)
    assert service.process.wait(timeout=30) == 0


def test_a_second_interrupt_ends_it_at_once(
    start_service: Start, images: HeldImages, callers: ThreadPoolExecutor
) -> None:
    service = start_service(**FETCHING).wait_until_ready()
    (held,) = hold_requests(service, images, callers, 1)
    worker = service.worker_pids()[0]
    for _ in range(2):
        os.kill(service.process.pid, signal.SIGINT)
        os.kill(worker, signal.SIGINT)
        time.sleep(1)
    assert service.process.wait(timeout=20) == 0
    assert isinstance(held.exception(20), requests.ConnectionError)


def test_an_idle_service_stops_without_waiting_for_anybody(start_service: Start) -> None:
    """Neither kept-alive connections, nor half a request, nor a model that is still loading holds it."""
    service = start_service()
    wait_until(lambda: "Booting worker" in service.log.read_text())
    gateway = requests.Session()
    assert gateway.get(service.url + "/readyz").json()["status"] == "loading"
    started = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - started < 5


def test_a_reload_answers_what_the_old_worker_had_accepted(
    start_service: Start, images: HeldImages, callers: ThreadPoolExecutor
) -> None:
    """The old worker leaves newcomers to the new one as soon as that is ready, and finishes what it has."""
    service = start_service(**FETCHING).wait_until_ready()
    old = service.worker_pids()
    held = hold_requests(service, images, callers, 4)
    service.process.send_signal(signal.SIGHUP)
    while service.log.read_text().count("The model is ready") < 2:
        assert (readiness(service), service.upload(PICTURE).status_code) == ("ready", 200)
    wait_until(lambda: established(old[0], service.port) == 4)
    assert service.upload(PICTURE).status_code == 200
    images.release()
    assert [answer.result(60).status_code for answer in held] == [200] * 4
    wait_until(lambda: not set(old) & set(service.worker_pids()))
    assert service.upload(PICTURE).status_code == 200
    assert service.stop() == 0


def test_a_worker_that_leaves_takes_newcomers_again_when_its_successor_is_killed(
    start_service: Start, images: HeldImages, callers: ThreadPoolExecutor, int8_folder: Path
) -> None:
    service = start_service(**FETCHING, ENGINE="int8", MODEL_ID=str(int8_folder)).wait_until_ready()
    old = service.worker_pids()
    held = hold_requests(service, images, callers, 1)
    service.process.send_signal(signal.SIGHUP)
    wait_until(lambda: service.log.read_text().count("The model is ready") == 2)
    wait_until(lambda: established(old[0], service.port) == 1)
    (new,) = set(service.worker_pids()) - set(old)
    os.kill(new, signal.SIGKILL)
    assert service.upload(PICTURE).status_code == 200
    assert old[0] in service.worker_pids()
    images.release()
    assert held[0].result(60).status_code == 200
    wait_until(lambda: not {*old, new} & set(service.worker_pids()))
    assert service.wait_until_ready().upload(PICTURE).status_code == 200
    assert service.stop() == 0


def test_a_reload_without_memory_for_two_models_refuses_until_the_next_is_ready(start_service: Start) -> None:
    service = start_service(RELOAD_OVERLAP="false").wait_until_ready()
    service.process.send_signal(signal.SIGHUP)
    wait_until(lambda: service.upload(PICTURE).status_code == 503)
    assert service.wait_until_ready().upload(PICTURE).status_code == 200
    assert service.stop() == 0


def test_a_killed_worker_is_replaced_and_the_others_requests_survive(
    start_service: Start, images: HeldImages, callers: ThreadPoolExecutor
) -> None:
    service = start_service(**FETCHING, WEB_CONCURRENCY="2").wait_until_ready()
    wait_until(lambda: service.log.read_text().count("The model is ready") == 2)
    held = []
    while min(connections := [established(pid, service.port) for pid in service.worker_pids()]) < 2:
        held += hold_requests(service, images, callers, 1)
        assert len(held) < 40
    victim, _ = service.worker_pids()
    lost, kept = connections
    busy = [callers.submit(service.upload, PICTURE, params={"numBeams": 5}) for _ in range(16)]
    wait_until(lambda: any(answer.done() for answer in busy))

    os.kill(victim, signal.SIGKILL)
    images.release()
    outcomes = [answer.exception(60) or answer.result().status_code for answer in held]
    assert outcomes.count(200) == kept
    cut = requests.ConnectionError | requests.exceptions.ChunkedEncodingError  # before its answer, or in it
    assert sum(isinstance(outcome, cut) for outcome in outcomes) == lost
    for answer in busy:
        assert isinstance(answer.exception(60), cut | None)
    wait_until(lambda: service.log.read_text().count("The model is ready") == 3)
    assert victim not in service.worker_pids()
    assert {service.upload(PICTURE).status_code for _ in range(6)} == {200}
    assert service.stop() == 0


def test_a_lone_worker_that_is_killed_leaves_a_service_that_loads_again(start_service: Start) -> None:
    service = start_service().wait_until_ready()
    victims = service.worker_pids()
    os.kill(victims[0], signal.SIGKILL)
    wait_until(lambda: service.worker_pids() not in ([], victims))
    assert readiness(service) == "loading"
    assert service.wait_until_ready().upload(PICTURE).status_code == 200
    assert service.stop() == 0


def established(pid: int, port: int) -> int:
    """Count the connections to a port that a process holds."""
    suffix = f":{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(suffix) and row[3] == "01"}
    held = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            held.append(os.readlink(descriptor))
        except FileNotFoundError:
            continue  # closed since
    return len(inodes.intersection(held))
