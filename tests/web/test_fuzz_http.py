"""The whole service against damaged requests: answers of the table, from the worker that was there before."""

from __future__ import annotations

import base64
import json
import re
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from http.client import HTTPMessage, HTTPResponse, RemoteDisconnected
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import event, given, note, settings
from hypothesis import strategies as st

from captioning import errors
from tests.conftest import SAMPLES as SAMPLE_FILES
from tests.conftest import Service, examples
from tests.mutations import ODD_TEXTS, mutated
from tests.sample_pictures import RARE_SAMPLES, SAMPLES

# What is attacked here is the same for both engines.
pytestmark = [pytest.mark.fuzz, pytest.mark.parametrize("service", ["torch"], indirect=True)]

PICTURES = [*SAMPLES.values(), *RARE_SAMPLES.values(), SAMPLE_FILES[0].read_bytes()]
PICTURE = SAMPLES["gif"]
BOUNDARY = b"--x\r\nContent-Disposition: form-data; name="
# Allocators keep some of what the largest pictures took; a leak would go on.
GROWTH_BYTES = 150 * 2**20


def statuses(error: type[errors.CaptioningError] = errors.CaptioningError) -> dict[str, int]:
    """Return the table: the status that belongs to each code."""
    own = {error.code: error.status} if "code" in vars(error) else {}
    return own | {code: status for child in error.__subclasses__() for code, status in statuses(child).items()}


TABLE = statuses()
# HTTP that cannot be parsed is refused before the application sees it.
UNPARSED_STATUSES = {400, 414, 417, 431, 501}


class Answer(NamedTuple):
    """One answer, read whole."""

    status: int
    headers: HTTPMessage
    body: bytes

    def is_json(self) -> bool:
        return self.headers["Content-Type"] == "application/json"


def ask(service: Service, request: bytes) -> Answer | None:
    """Send some bytes and no more; return the first answer, or None where the server hangs up without a word."""
    method = request.split(b" ")[0].decode("latin-1")
    with (
        socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection,
        closing(HTTPResponse(connection, method=method)) as answer,
        suppress(RemoteDisconnected),
    ):
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer.begin()
        return Answer(answer.status, answer.headers, answer.read())
    return None


def assert_is_of_the_table(answer: Answer) -> None:
    event(str(answer.status))
    body = json.loads(answer.body)
    if answer.status == 200:
        assert body.keys() == {"output"} or "status" in body
        return
    assert body.keys() == {"error", "code", "requestId"}
    assert answer.status == TABLE[body["code"]] != 500, body
    assert body["error"].isprintable()
    assert body["requestId"] == answer.headers["X-Request-Id"]


def post(content_type: bytes, body: bytes, path: bytes = b"/local-caption", headers: bytes = b"") -> bytes:
    length = str(len(body)).encode()
    return (
        b"POST %s HTTP/1.1\r\nHost: a\r\n%sConnection: close\r\nContent-Type: %s\r\nContent-Length: %s\r\n\r\n%s"
    ) % (path, headers, content_type, length, body)


# What gunicorn takes as a header's value (RFC 9110, section 5.5).
_FIELD_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]{0,8000}")
DATA_URL = b"data:image/gif;base64," + base64.b64encode(PICTURE)
JSON_BODIES = [
    b'{"imageUrl": "%s", "prompt": "a picture of", "maxNewTokens": 3, "numBeams": 2}' % DATA_URL,
    b'{"imageUrl": "data:,%s", "maxNewTokens": 5}' % quote_from_bytes(PICTURE[:200]).encode(),
    b'{"imageUrl": "http://127.0.0.1:1/a?b=c#d", "numBeams": null}',
    b'[{"imageUrl": {"a": [1, 2.5, true, null]}}]',
]
FORMS = [
    b"imageUrl=%s&prompt=a+dog&maxNewTokens=2" % quote_from_bytes(DATA_URL).encode(),
    b"imageUrl=http%3A%2F%2F127.0.0.1%3A1%2F&numBeams=1",
]
MULTIPART = [
    BOUNDARY + b'"image"; filename="a.gif"\r\nContent-Type: image/gif\r\n\r\n' + PICTURE + b"\r\n--x--\r\n",
    BOUNDARY + b'"imageUrl"\r\n\r\n' + DATA_URL + b"\r\n" + BOUNDARY + b'"prompt"\r\n\r\na\r\n--x--\r\n',
    b"--x\r\nContent-Disposition: form-data; name*=utf-8''image; filename=\"a\"\r\n\r\nGIF89a\r\n--x--\r\n",
]
content_types = mutated([b"application/json", b"multipart/form-data; boundary=x", b"image/gif"], ODD_TEXTS)
content_types = content_types.filter(lambda value: _FIELD_VALUE.fullmatch(value) is not None)
bodies = st.one_of(
    st.tuples(st.just(b"application/json"), mutated(JSON_BODIES, ODD_TEXTS)),
    st.tuples(st.just(b"application/x-www-form-urlencoded"), mutated(FORMS, ODD_TEXTS)),
    st.tuples(st.just(b"multipart/form-data; boundary=x"), mutated(MULTIPART, ODD_TEXTS)),
    st.tuples(st.just(b"image/gif"), mutated(PICTURES)),
    st.tuples(content_types, st.sampled_from(MULTIPART)),
)


@pytest.fixture(scope="module")
def survivor(service: Service) -> Iterator[Service]:
    """Yield the service; afterwards its worker must be the same, as slim as before, and without a bug in its log."""
    for picture in PICTURES:
        service.upload(picture)
    workers = service.worker_pids()
    held = memory(workers[0])
    logged = service.log.stat().st_size
    yield service
    assert service.worker_pids() == workers
    assert memory(workers[0]) - held < GROWTH_BYTES
    written = service.log.read_bytes()[logged:]
    assert b"Traceback" not in written
    assert b"internal_error" not in written
    assert service.upload(PICTURE).json().keys() == {"output"}


def memory(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) * 1024


@given(bodies)
@settings(max_examples=examples(200))
def test_a_damaged_body_gets_an_answer_of_the_table(survivor: Service, typed_body: tuple[bytes, bytes]) -> None:
    note(repr(typed_body))
    answer = ask(survivor, post(*typed_body))
    assert answer is not None
    assert_is_of_the_table(answer)


MESSAGES = [
    post(b"image/gif", PICTURE, path=b"/local-caption?prompt=a%20dog&maxNewTokens=2"),
    post(b"application/json", JSON_BODIES[0], headers=b"X-Request-Id: a-b\r\nAuthorization: Bearer a\r\n"),
    post(
        b"multipart/form-data; boundary=x", MULTIPART[0], headers=b"Accept-Encoding: gzip\r\nExpect: 100-continue\r\n"
    ),
    b"POST /local-caption HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Type: image/gif\r\n\r\n"
    + b"%x\r\n%s\r\n0\r\nX-Trailer: a\r\n\r\n" % (len(PICTURE), PICTURE),
    b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nCookie: a=b\r\n\r\n",
    b"HEAD /readyz?a=b HTTP/1.0\r\nRange: bytes=0-1\r\nIf-None-Match: *\r\n\r\n",
    b"OPTIONS /local-caption HTTP/1.1\r\nHost: [::1]:80\r\nOrigin: null\r\nContent-Length: 0\r\n\r\n",
    b"DELETE http://a/local-caption HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
]


@given(mutated(MESSAGES, ODD_TEXTS))
@settings(max_examples=examples(200))
def test_damaged_http_never_breaks_the_service(survivor: Service, message: bytes) -> None:
    note(repr(message))
    answer = ask(survivor, message)
    if answer is None:
        event("no answer")
        assert not re.search(rb"\r\n\r\n", message)
    elif answer.status in UNPARSED_STATUSES - {400}:
        event(f"{answer.status} before the application")
        assert answer.is_json()
        # The answer to HEAD has no body, for who reads it.
        assert message.startswith(b"HEAD") or json.loads(answer.body)["code"] == "invalid_request"
    elif answer.is_json() and answer.body:
        assert_is_of_the_table(answer)
    else:
        assert answer.status < 500
