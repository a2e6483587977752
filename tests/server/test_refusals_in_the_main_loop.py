"""What is sure to find no permit: the main loop refuses it, without a thread, in the words of all other refusals."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection

import pytest
import requests

from benchmarks.server import memory
from tests.bad_servers import BadServer, Connection
from tests.conftest import SAMPLES, Service, wait_until

PICTURE = SAMPLES[0].read_bytes()
THREADS = 4
KEY = {"Authorization": "Bearer s3cret", "Origin": "https://shop.example"}


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def slow_server(go_on: threading.Event) -> Iterator[BadServer]:

    def say_nothing_yet(connection: Connection) -> None:
        connection.read_request()
        go_on.wait()

    with BadServer(say_nothing_yet) as server:
        yield server


def has_a_thread_left(service: Service) -> bool:
    with suppress(requests.Timeout):
        return requests.get(service.url + "/healthz", timeout=3).ok
    return False


def test_refusals_need_no_thread_and_say_what_all_others_say(
    start_service: Callable[..., Service], slow_server: BadServer, go_on: threading.Event
) -> None:
    service = start_service(
        API_KEYS="gateway:s3cret",
        CORS_ORIGINS=KEY["Origin"],
        FETCH_ALLOW_PRIVATE_ADDRESSES="true",
        FETCH_ALLOWED_PORTS="*",
        FETCH_TIMEOUT_S="300",
        REQUEST_TIMEOUT_S="300",
        MAX_CONCURRENT_REQUESTS=str(THREADS),  # one of which is not for URLs
        LOG_FORMAT="json",
        GUNICORN_CMD_ARGS=f"--threads {THREADS}",
    ).wait_until_ready()
    url = slow_server.url("/a.jpg")
    with requests.Session() as session, ThreadPoolExecutor(THREADS) as callers, ExitStack() as at_the_end:
        at_the_end.callback(go_on.set)

        def post(path: str = "/local-caption", **body: object) -> requests.Response:
            return session.post(service.url + path, headers={**KEY, **body.pop("headers", {})}, timeout=60, **body)  # type: ignore[arg-type, dict-item]

        def upload() -> requests.Response:
            return post(data=PICTURE, headers={"Content-Type": "image/jpeg"})

        for _ in range(THREADS - 1):
            callers.submit(requests.post, service.url + "/local-caption", json={"imageUrl": url}, headers=KEY)
        wait_until(lambda: slow_server.connections == THREADS - 1)
        of_a_thread, of_the_loop = post(data={"imageUrl": url}), post(json={"imageUrl": url})  # it reads no forms
        assert upload().status_code == 200
        assert post("/local-caption?details=maybe", json={"imageUrl": "data:image/jpeg;base64,"}).status_code == 400
        count = re.findall(r'^captioning_requests_total{(.*"overloaded".*)} 2.0', service.get("/metrics").text, re.M)
        assert len(count) == 1, "both are counted under the same labels"
        assert 'api_key="gateway"' in count[0]

        callers.submit(requests.post, service.url + "/local-captions", json={"imageUrls": [url]}, headers=KEY)
        wait_until(lambda: not has_a_thread_left(service))
        assert upload().status_code == 429
        assert post("/local-captions", json={"imageUrls": [url]}).status_code == 429
        without_a_thread = post(json={"imageUrl": url})
        (worker,) = service.worker_pids()
        before = memory(worker)["RssAnon"]
        with ExitStack() as idle:
            for _ in range(20):
                client = idle.enter_context(closing(HTTPConnection("127.0.0.1", service.port, timeout=60)))
                client.request("POST", "/local-caption", bytes(9_000_000), {**KEY, "Content-Type": "image/jpeg"})
                refused = client.getresponse()
                assert (refused.status, refused.getheader("Connection")) == (429, None)
                refused.read()
            assert memory(worker)["RssAnon"] < before + 60_000_000, "what was refused is not kept"

    for answer in (of_the_loop, without_a_thread):
        assert answer.status_code == of_a_thread.status_code == 429
        assert answer.headers.keys() == of_a_thread.headers.keys() - {"Server-Timing"}
        assert answer.headers["Access-Control-Allow-Origin"] == KEY["Origin"]
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.json() == {**of_a_thread.json(), "requestId": answer.headers["X-Request-Id"]}
    log = [json.loads(line) for line in service.log.read_text().splitlines()]
    lines = [
        line
        for answer in (of_the_loop, of_a_thread)
        for line in log
        if line.get("request_id") == answer.headers["X-Request-Id"]
    ]
    first, second = ({name: line[name] for name in ("message", "route", "status", "code", "api_key")} for line in lines)
    assert first == second
