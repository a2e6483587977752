"""Who may ask, how much of the service one key may take, and where its name and its caller's trace are seen."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from captioning.web.trace_context import trace_fields
from tests.bad_servers import BadServer, Behaviour, Connection
from tests.conftest import SAMPLES, Service, wait_until

PICTURE = SAMPLES[0].read_bytes()
DATA_URL = f"data:image/jpeg;base64,{base64.b64encode(PICTURE).decode()}"
TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"


@pytest.fixture(scope="module")
def keyed_service(start_service: Callable[..., Service]) -> Service:
    return start_service(
        API_KEYS="plain-key==,gateway:s3cret@1",
        FETCH_ALLOW_PRIVATE_ADDRESSES="true",
        FETCH_ALLOWED_PORTS="*",
        CACHE_MAX_ENTRIES="0",
        FETCH_TIMEOUT_S="120",  # the server that answers nobody holds its request until the test lets it go
        REQUEST_TIMEOUT_S="120",
        LOG_FORMAT="json",
    ).wait_until_ready()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def request_line(service: Service, request_id: str) -> dict[str, Any]:
    """Return the log's line of a request."""

    def lines() -> list[dict[str, Any]]:
        logged = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in logged if line.get("request_id") == request_id]

    wait_until(lambda: bool(lines()))
    return lines()[0]


def counted(service: Service, **labels: str) -> float:
    wanted = [f'{name}="{value}"' for name, value in labels.items()]
    samples = re.findall(r"^captioning_requests_total{(.*)} (.*)$", service.get("/metrics").text, re.MULTILINE)
    return sum(float(value) for found, value in samples if all(label in found for label in wanted))


def gauge(service: Service, name: str) -> float:
    return sum(map(float, re.findall(rf"^captioning_{name} (.*)$", service.get("/metrics").text, re.MULTILINE)))


@pytest.mark.parametrize("key", ["plain-key==", "s3cret"])
def test_each_key_opens_the_service(keyed_service: Service, key: str) -> None:
    assert keyed_service.post(json={"imageUrl": DATA_URL}, headers=bearer(key)).status_code == 200


@pytest.mark.parametrize("key", ["gateway", "gateway:s3cret", "gateway:s3cret@1", "s3cret@1", "plain-key", "", "none"])
def test_nothing_else_does(keyed_service: Service, key: str) -> None:
    answer = keyed_service.post(json={"imageUrl": DATA_URL}, headers=bearer(key))
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


@pytest.fixture
def stuck_server() -> Iterator[BadServer]:
    """An image server that answers nobody before it ends."""

    def stall(connection: Connection) -> None:
        connection.read_request()
        connection.sleep(3600)

    behaviour: Behaviour = stall
    with BadServer(behaviour) as server:
        yield server


def test_a_key_with_a_limit_cannot_take_what_is_others(keyed_service: Service, stuck_server: BadServer) -> None:
    def ask(key: str, url: str) -> Any:
        return keyed_service.post(json={"imageUrl": url}, headers=bearer(key))

    with ThreadPoolExecutor(1) as caller:
        slow = caller.submit(ask, "s3cret", stuck_server.url())
        wait_until(lambda: bool(stuck_server.requests))
        refused = ask("s3cret", DATA_URL)
        assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
        assert int(refused.headers["Retry-After"]) >= 1
        assert ask("plain-key==", DATA_URL).status_code == 200
        stuck_server.end_clients()
        assert slow.result().status_code == 502
    assert ask("s3cret", DATA_URL).status_code == 200
    assert gauge(keyed_service, "permits_in_use") == 0


def test_a_bulk_request_takes_no_more_than_its_keys_limit_and_loses_nothing(keyed_service: Service) -> None:
    answer = requests.post(
        f"{keyed_service.url}/local-captions",
        json={"imageUrls": [DATA_URL] * 6},
        headers=bearer("s3cret"),
        timeout=60,
    )
    assert len([output for output in answer.json()["outputs"] if "output" in output]) == 6


def test_the_keys_name_and_the_callers_trace_are_in_the_log_and_no_key_is(keyed_service: Service) -> None:
    before = counted(keyed_service, api_key="gateway", code="none")
    headers = {**bearer("s3cret"), "X-Request-Id": "named", "traceparent": TRACEPARENT}
    assert keyed_service.post(json={"imageUrl": DATA_URL}, headers=headers).status_code == 200
    line = request_line(keyed_service, "named")
    assert (line["api_key"], line["trace_id"], line["parent_id"]) == ("gateway", TRACE_ID, PARENT_ID)
    assert counted(keyed_service, api_key="gateway", code="none") == before + 1
    headers = {**bearer("plain-key=="), "X-Request-Id": "plain", "traceparent": "nonsense"}
    keyed_service.post(json={"imageUrl": DATA_URL}, headers=headers)
    line = request_line(keyed_service, "plain")
    assert (line["api_key"], line.get("trace_id")) == ("unnamed", None)
    keyed_service.post(json={"imageUrl": DATA_URL}, headers={"X-Request-Id": "stranger"})
    assert "api_key" not in request_line(keyed_service, "stranger")
    seen = keyed_service.log.read_text() + keyed_service.get("/metrics").text
    assert "s3cret" not in seen
    assert "plain-key" not in seen


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "00",
        f"00-{TRACE_ID}-{PARENT_ID}",
        f"00-{TRACE_ID}-{PARENT_ID}-01-more",
        f"00-{TRACE_ID.upper()}-{PARENT_ID}-01",
        f"00-{'0' * 32}-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"ff-{TRACE_ID}-{PARENT_ID}-01",
        f"01-{TRACE_ID}-{PARENT_ID}-012",
        f"{TRACEPARENT}, {TRACEPARENT}",
        f"{TRACEPARENT}\n",
    ],
)
def test_a_traceparent_that_is_not_valid_is_none(traceparent: str) -> None:
    assert trace_fields(traceparent) == {}


@pytest.mark.parametrize("traceparent", [TRACEPARENT, f"01-{TRACE_ID}-{PARENT_ID}-00-of-a-later-version"])
def test_a_valid_traceparent_is_taken_apart(traceparent: str) -> None:
    assert trace_fields(traceparent) == {"trace_id": TRACE_ID, "parent_id": PARENT_ID}


def test_the_images_server_is_told_nothing_of_the_caller(keyed_service: Service) -> None:
    def answer(connection: Connection) -> None:
        connection.read_request()

    with BadServer(answer) as server:
        headers = {**bearer("s3cret"), "traceparent": TRACEPARENT, "X-Request-Id": "kept-inside"}
        keyed_service.post(json={"imageUrl": server.url()}, headers=headers)
        (request,) = server.requests
    assert TRACE_ID.encode() not in request
    assert b"kept-inside" not in request
