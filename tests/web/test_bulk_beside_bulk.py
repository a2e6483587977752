"""Bulk requests that meet: none loses a picture because of the others."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.bad_servers import BadServer, Connection, http_answer
from tests.conftest import EMOJI_MODEL, SAMPLES, Service, wait_until

PICTURES = [sample.read_bytes() for sample in SAMPLES]
CAPTIONS = json.loads((EMOJI_MODEL / "samples" / "captions.json").read_text())


@pytest.fixture(scope="module")
def fast_service(start_service: Callable[..., Service], int8_folder: Path) -> Service:
    """A service on its default limits, whose model is quick and whose captions are all made."""
    fetching = {"FETCH_ALLOW_PRIVATE_ADDRESSES": "true", "FETCH_ALLOWED_PORTS": "*", "CACHE_MAX_ENTRIES": "0"}
    return start_service(ENGINE="int8", MODEL_ID=str(int8_folder), **fetching).wait_until_ready()


def ask(service: Service, urls: list[str]) -> list[dict[str, str]]:
    answer = requests.post(f"{service.url}/local-captions", json={"imageUrls": urls}, timeout=600)
    assert answer.status_code == 200, answer.text
    outputs: list[dict[str, str]] = answer.json()["outputs"]
    return outputs


def codes(answers: list[list[dict[str, str]]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for output in (output for answer in answers for output in answer):
        code = output.get("code", "captioned")
        found[code] = found.get(code, 0) + 1
    return found


def answer_slowly(connection: Connection) -> None:
    """Send a picture of its own to each who asks, after a quarter of a second."""
    if not (request := connection.read_request()):
        return  # its caller left before it asked
    time.sleep(0.25)
    number = int(request.split()[1].rpartition(b"/")[2])
    connection.send(http_answer(PICTURES[number % len(PICTURES)] + b"%d" % number))


def test_five_bulks_of_sixty_four_lose_nothing(fast_service: Service) -> None:
    with BadServer(answer_slowly) as images, ThreadPoolExecutor(5) as callers:
        bulks = [[images.url(f"/{bulk * 64 + number}") for number in range(64)] for bulk in range(5)]
        answers = list(callers.map(lambda urls: ask(fast_service, urls), bulks))
    assert codes(answers) == {"captioned": 320}
    names = [sample.name for sample in SAMPLES]
    alone = [fast_service.upload(picture).json() for picture in PICTURES]
    assert [output for answer in answers for output in answer] == [alone[n % len(names)] for n in range(320)]


def test_three_bulks_of_fourteen_megabytes_lose_nothing(fast_service: Service) -> None:
    padding = 160_000  # bytes after a picture's end cost nothing to decode
    urls = [
        "data:;base64," + base64.b64encode(PICTURES[number % len(PICTURES)] + bytes(padding)).decode()
        for number in range(60)
    ]
    assert 12_000_000 < sum(map(len, urls)) < 15_000_000
    with ThreadPoolExecutor(3) as callers:
        answers = list(callers.map(lambda _: ask(fast_service, urls), range(3)))
    assert codes(answers) == {"captioned": 180}


def test_uploads_are_answered_beside_bulks(fast_service: Service) -> None:
    with BadServer(answer_slowly) as images, ThreadPoolExecutor(4) as callers:
        bulk = callers.submit(ask, fast_service, [images.url(f"/{number}") for number in range(64)])
        wait_until(lambda: bool(images.requests))
        alone = [fast_service.upload(picture) for picture in PICTURES]
        assert [answer.status_code for answer in alone] == [200] * len(PICTURES)
        assert codes([bulk.result(600)]) == {"captioned": 64}


def test_several_bulks_leave_room_for_uploads(start_service: Callable[..., Service], int8_folder: Path) -> None:
    fetching = {"FETCH_ALLOW_PRIVATE_ADDRESSES": "true", "FETCH_ALLOWED_PORTS": "*", "FETCH_TIMEOUT_S": "300"}
    model = {"ENGINE": "int8", "MODEL_ID": str(int8_folder)}
    service = start_service(**fetching, **model, MAX_CONCURRENT_REQUESTS="8").wait_until_ready()
    release = threading.Event()

    def answer(connection: Connection) -> None:
        connection.read_request()
        assert release.wait(240)
        connection.send(http_answer(PICTURES[0]))

    with BadServer(answer) as images, ThreadPoolExecutor(4) as callers:
        bulks = []
        for downloads in (2, 4, 6, 6):  # three quarters of the permits
            bulks.append(callers.submit(ask, service, [images.url(f"/{number}") for number in range(8)]))
            wait_until(lambda: len(images.requests) == downloads)  # noqa: B023
        wait_until(lambda: "\ncaptioning_downloads_waiting 1.0\n" in service.get("/metrics").text)
        assert service.upload(PICTURES[1]).status_code == 200
        release.set()
        assert codes([bulk.result(600) for bulk in bulks]) == {"captioned": 32}
    assert service.stop() == 0


def test_a_bulk_keeps_no_bytes_while_it_waits_for_strangers_servers(fast_service: Service) -> None:
    """Three requests whose one large data: URL stood behind silent servers kept out all larger uploads for minutes."""
    release = threading.Event()

    def answer(connection: Connection) -> None:
        connection.read_request()
        assert release.wait(240)
        connection.send(http_answer(PICTURES[0]))

    def body_bytes() -> float:
        lines = fast_service.get("/metrics").text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("captioning_body_bytes_in_use "))

    large = "data:;base64," + base64.b64encode(PICTURES[1] + bytes(3_000_000)).decode()
    with BadServer(answer) as images, ThreadPoolExecutor(1) as caller:
        silent = [images.url(f"/{number}") for number in range(20)]  # more than are downloaded at once
        bulk = caller.submit(ask, fast_service, [*silent, large, large])
        wait_until(lambda: len(images.requests) == 16)
        wait_until(lambda: body_bytes() == 0)
        assert not bulk.done()
        release.set()
        answers = bulk.result(600)
    captions = [fast_service.upload(PICTURES[number]).json()["output"] for number in (0, 1)]
    assert [answer["output"] for answer in answers] == [captions[0]] * 20 + [captions[1]] * 2


def test_a_body_is_charged_what_python_takes_of_it(fast_service: Service) -> None:
    """One wide character in a prompt makes no other body of it."""
    picture = base64.b64encode(PICTURES[0] + bytes(7_000_000)).decode()
    for prompt in ("ö", "中", "🐈"):
        body = json.dumps({"imageUrl": f"data:;base64,{picture}", "prompt": prompt}, ensure_ascii=False).encode()
        assert len(body) > 9_000_000
        answer = fast_service.post(data=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 200, answer.text


def test_a_body_that_can_never_be_read_is_refused_at_once(fast_service: Service) -> None:
    wide = json.dumps({"imageUrl": "data:;base64,AAAA", "other": "🐈" + "x" * 14_000_000}, ensure_ascii=False).encode()
    answer = fast_service.post(data=wide, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert "limit" in answer.json()["error"]


def test_a_streamed_answer_is_logged_and_counted_to_its_end(fast_service: Service) -> None:
    with BadServer(answer_slowly) as images:
        for request_id, read_all in (("read-to-its-end", True), ("left-in-the-middle", False)):
            with requests.post(
                f"{fast_service.url}/local-captions",
                json={"imageUrls": [images.url(f"/{number}") for number in range(40)]},
                headers={"Accept": "application/x-ndjson", "X-Request-Id": request_id},
                stream=True,
                timeout=600,
            ) as response:
                lines = response.iter_lines()
                next(lines)
                assert not logged(fast_service, request_id)
                assert not read_all or len(list(lines)) == 39
            wait_until(lambda: bool(logged(fast_service, request_id)))  # noqa: B023
            [line] = logged(fast_service, request_id)
            assert (line["route"], line["status"]) == ("/local-captions", 200)
            assert line["total_ms"] >= 250
    counted = 'captioning_requests_total{api_key="none",code="none",method="POST",route="/local-captions",status="200"}'
    assert counted in fast_service.get("/metrics").text
    wait_until(lambda: "\ncaptioning_permits_in_use 0.0\n" in fast_service.get("/metrics").text)


def logged(service: Service, request_id: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["logger"] == "captioning.requests" and line["request_id"] == request_id]
