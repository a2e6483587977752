"""Several pictures in one request, over HTTP and as the iterator behind it."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
import requests

from captioning.errors import CorruptImage, Overloaded
from captioning.limits import Permits
from captioning.web.bulk import each_as_admitted
from tests.bad_servers import BadServer, Connection
from tests.conftest import SAMPLES, Service

Start = Callable[..., Service]


def test_every_source_is_yielded_once_with_its_result() -> None:
    done = dict(each_as_admitted("abcdefg", str.upper, permit=partial(Permits(3).permit, float), at_once=8))
    assert {source: future.result() for source, future in done.items()} == dict(zip("abcdefg", "ABCDEFG", strict=True))


def test_where_the_system_gives_no_more_threads_they_are_done_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_more)
    done = dict(each_as_admitted("abc", str.upper, permit=partial(Permits(3).permit, float), at_once=8))
    assert {source: future.result() for source, future in done.items()} == {"a": "A", "b": "B", "c": "C"}


def test_no_more_are_in_the_works_than_have_permits() -> None:
    """The caller's own permit, and the two that are free; `at_once` would allow eight."""
    permits = Permits(3)
    running = 0
    most = 0
    lock = threading.Lock()

    def work(_: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    with permits.permit(lambda: 0.0):
        assert len(list(each_as_admitted(range(12), work, permit=partial(permits.permit, float), at_once=8))) == 12
    assert most == 3


def test_without_a_free_permit_it_goes_on_with_the_caller_s_own() -> None:
    permits = Permits(1)
    with permits.permit(lambda: 0.0):
        done = list(each_as_admitted(range(5), lambda number: number, permit=partial(permits.permit, float), at_once=4))
    assert [number for number, _ in done] == [0, 1, 2, 3, 4]


def test_permits_are_given_back_when_it_is_closed_early() -> None:
    permits = Permits(4)
    started: list[int] = []
    with permits.permit(lambda: 0.0):
        captions = each_as_admitted(range(50), started.append, permit=partial(permits.permit, float), at_once=4)
        next(captions)
        captions.close()
        assert len(started) < 10
        with ExitStack() as others:
            for _ in range(3):
                others.enter_context(permits.permit(lambda: 0.0))
            with pytest.raises(Overloaded):
                others.enter_context(permits.permit(lambda: 0.0))


def test_a_failure_is_its_own_source_s_alone() -> None:
    def work(number: int) -> int:
        if number == 2:
            raise CorruptImage
        return number

    done = dict(each_as_admitted(range(4), work, permit=partial(Permits(8).permit, float), at_once=2))
    assert isinstance(done.pop(2).exception(), CorruptImage)
    assert [done[index].result() for index in (0, 1, 3)] == [0, 1, 3]


def ask(service: Service, body: object, **headers: str) -> requests.Response:
    return requests.post(f"{service.url}/local-captions", json=body, headers=headers, timeout=120)


def test_captions_and_errors_come_in_the_order_asked_for(service: Service, image_server: str) -> None:
    samples = [f"{image_server}/samples/{sample.name}" for sample in SAMPLES]
    data = "data:image/jpeg;base64," + base64.b64encode(SAMPLES[0].read_bytes()).decode()
    urls = [*samples, f"{image_server}/status/404", "ftp://example.com/a", data, "http://127.0.0.1:1/"]
    outputs = ask(service, {"imageUrls": urls}).json()["outputs"]
    alone = [service.upload(sample.read_bytes()).json() for sample in SAMPLES]
    assert outputs[: len(alone)] == alone
    missing, bad, first, refused = outputs[len(alone) :]
    assert (missing["code"], bad["code"], refused["code"]) == (
        "image_not_found",
        "invalid_image_url",
        "image_fetch_failed",
    )
    assert missing.keys() == {"error", "code"}
    assert first == alone[0]


def test_an_empty_url_is_told_so(service: Service) -> None:
    [output] = ask(service, {"imageUrls": [" "]}).json()["outputs"]
    assert output == {"error": "imageUrl is empty; send an http:, https: or data: URL.", "code": "invalid_image_url"}


def test_options_that_the_model_has_no_room_for_are_the_request_s_error(service: Service) -> None:
    """They were each picture's, in an answer of 200."""
    body = {"imageUrls": ["data:,a"] * 3, "prompt": "a dog " * 80}
    refused = requests.post(f"{service.url}/local-captions", json=body, timeout=60)
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_parameter")


def test_options_hold_for_all_pictures(service: Service, image_server: str) -> None:
    url = f"{image_server}/samples/{SAMPLES[0].name}"
    body = {"imageUrls": [url, url], "prompt": "a picture of", "maxNewTokens": 4}
    alone = service.post(json={"imageUrl": url, "prompt": "a picture of", "maxNewTokens": 4}).json()
    assert ask(service, body).json() == {"outputs": [alone, alone]}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "missing_image"),
        ({"imageUrls": []}, 400, "missing_image"),
        ({"imageUrls": "https://example.com/a.png"}, 400, "invalid_parameter"),
        ({"imageUrls": ["https://example.com/a.png", 5]}, 400, "invalid_parameter"),
        ({"imageUrls": ["https://example.com/a.png"] * 65}, 400, "invalid_parameter"),
        ({"imageUrls": ["https://example.com/a.png"], "numBeams": 9}, 400, "invalid_parameter"),
        ([], 400, "invalid_json"),
    ],
)
def test_a_malformed_request_is_refused_as_a_whole(service: Service, body: object, status: int, code: str) -> None:
    response = ask(service, body)
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_lines_come_as_soon_as_they_are_done(service: Service, image_server: str) -> None:
    """The second picture's server answers only when the first picture's line is there."""
    first_is_there = threading.Event()

    def answer_afterwards(connection: Connection) -> None:
        connection.read_request()
        assert first_is_there.wait(60)
        picture = SAMPLES[1].read_bytes()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(picture) + picture)

    with BadServer(answer_afterwards) as late:
        urls = [late.url("/late.jpg"), f"{image_server}/samples/{SAMPLES[0].name}"]
        with requests.post(
            f"{service.url}/local-captions",
            json={"imageUrls": urls},
            headers={"Accept": "application/x-ndjson"},
            stream=True,
            timeout=120,
        ) as response:
            assert response.headers["Content-Type"] == "application/x-ndjson"
            lines = response.iter_lines()
            first = json.loads(next(lines))
            first_is_there.set()
            rest = [json.loads(line) for line in lines]
    assert first == {"index": 1, **service.upload(SAMPLES[0].read_bytes()).json()}
    assert rest == [{"index": 0, **service.upload(SAMPLES[1].read_bytes()).json()}]


def test_a_caller_who_leaves_in_the_middle_gives_all_permits_back(start_service: Start, image_server: str) -> None:
    service = start_service(
        MAX_CONCURRENT_REQUESTS="4", FETCH_ALLOW_PRIVATE_ADDRESSES="true", FETCH_ALLOWED_PORTS="*"
    ).wait_until_ready()
    url = f"{image_server}/samples/{SAMPLES[0].name}"
    for _ in range(3):
        with requests.post(
            f"{service.url}/local-captions",
            json={"imageUrls": [url] * 64},
            headers={"Accept": "application/x-ndjson"},
            stream=True,
            timeout=120,
        ) as response:
            next(response.iter_lines())
    picture = SAMPLES[0].read_bytes()
    end = time.monotonic() + 30
    with ThreadPoolExecutor(4) as callers:
        while {answer.status_code for answer in callers.map(service.upload, [picture] * 4)} != {200}:
            assert time.monotonic() < end
    assert service.stop() == 0


def test_two_bulk_requests_share_the_service(service: Service, image_server: str) -> None:
    urls = [f"{image_server}/samples/{sample.name}" for sample in SAMPLES] * 2
    with ThreadPoolExecutor(2) as callers:
        first, second = callers.map(lambda _: ask(service, {"imageUrls": urls}).json(), range(2))
    assert first == second
    assert len(first["outputs"]) == 24


def send(service: Service, files: list[tuple[str, tuple[str, bytes]]], **kwargs: Any) -> requests.Response:
    return requests.post(f"{service.url}/local-captions", files=files, timeout=120, **kwargs)


def test_files_are_answered_in_their_order(service: Service) -> None:
    pictures = [sample.read_bytes() for sample in SAMPLES[:3]]
    given = [pictures[0], b"", pictures[1], b"<!doctype html>", pictures[2]]
    answer = send(service, [("image", (f"{number}.jpg", file)) for number, file in enumerate(given)])
    outputs = answer.json()["outputs"]
    alone = [service.upload(picture).json() for picture in pictures]
    assert [outputs[0], outputs[2], outputs[4]] == alone
    assert [outputs[1]["code"], outputs[3]["code"]] == ["unsupported_image"] * 2
    assert outputs[1]["error"] == "The form's image is an empty file."
    assert "is an HTML page" in outputs[3]["error"]


def test_options_beside_files_hold_for_all_of_them(service: Service) -> None:
    files = [("image", (sample.name, sample.read_bytes())) for sample in SAMPLES[:2]]
    options = {"prompt": "a picture of", "maxNewTokens": "4"}
    alone = [service.upload(sample.read_bytes(), params=options).json() for sample in SAMPLES[:2]]
    assert send(service, files, data=options).json() == {"outputs": alone}
    assert send(service, files, params=options).json() == {"outputs": alone}
    lines = send(service, files, data=options, headers={"Accept": "application/x-ndjson"}).text.splitlines()
    assert sorted(map(json.loads, lines), key=lambda line: line["index"]) == [
        {"index": index, **answer} for index, answer in enumerate(alone)
    ]


@pytest.mark.parametrize(
    ("files", "data", "code", "sentence"),
    [
        ([("file", ("a.jpg", b"a"))], {}, "missing_image", 'named "file"; name it image'),
        ([("image", ("", b""))], {}, "missing_image", "each named image"),
        ([("image", ("a.jpg", b"a"))], {"imageUrl": "https://example.com/a"}, "missing_image", "their URLs in JSON"),
        ([("image", ("a.jpg", b"a"))] * 65, {}, "invalid_parameter", "holds 65 pictures; at most 64"),
        ([("image", ("a.jpg", b"a"))] * 90, {}, "invalid_request", "more than 84 parts"),
        ([("image", ("a.jpg", b"a"))], {"numBeams": "9"}, "invalid_parameter", "numBeams"),
    ],
)
def test_a_form_that_is_wrong_as_a_whole_is_refused(
    service: Service, files: list[tuple[str, tuple[str, bytes]]], data: dict[str, str], code: str, sentence: str
) -> None:
    response = send(service, files, data=data)
    assert (response.status_code, response.json()["code"]) == (400, code)
    assert sentence in response.json()["error"]
