"""Each row of the table of errors, provoked over HTTP; afterwards the same worker still captions."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPResponse
from pathlib import Path

import pytest
import requests
from PIL import Image
from werkzeug.serving import make_server

from app import create_app
from captioning import errors
from captioning.model.engine import Engine
from captioning.settings import Settings
from model_loader import Captioner
from tests.bad_servers import BadServer, Connection, answer_with, drip, http_answer
from tests.breaking_engine import BreakingEngine
from tests.conftest import SAMPLES, Service, free_port, wait_until

MIB = 1024 * 1024
PICTURE = SAMPLES[0].read_bytes()
PAGE = b"<!doctype html><html><title>Sign in</title>"


@pytest.fixture(scope="module")
def strict_service(start_service: Callable[..., Service]) -> Service:
    """A service as strangers meet it, with one permit and little patience."""
    settings = {"MAX_CONCURRENT_REQUESTS": "1", "REQUEST_TIMEOUT_S": "2", "API_KEYS": "first,second"}
    return start_service(**settings).wait_until_ready()


def assert_error(response: requests.Response, status: int, code: str) -> None:
    assert response.headers["Content-Type"] == "application/json"
    body = response.json()
    assert (response.status_code, body["code"]) == (status, code), body
    assert body.keys() == {"error", "code", "requestId"}
    assert body["error"].endswith(".")
    assert body["requestId"] == response.headers["X-Request-Id"]


def png_header(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b"\xff\xfe", 400, "invalid_json"),
        (b"[" * 9_000, 400, "invalid_json"),
        (b"[" + b"[]," * 50_000 + b"[]]", 400, "invalid_json"),
        (b"{}", 400, "missing_image"),
        (b'{"imageUrl": null}', 400, "missing_image"),
        (b'{"imageUrl": 5}', 400, "invalid_image_url"),
        (b'{"imageUrl": "no url"}', 400, "invalid_image_url"),
        (b'{"imageUrl": "ftp://example.com/a.png"}', 400, "invalid_image_url"),
        (b'{"imageUrl": "https://user:secret@example.com/a.png"}', 400, "invalid_image_url"),
        (b'{"imageUrl": "http://[::1"}', 400, "invalid_image_url"),
        (b'{"imageUrl": "http://\\ud800/"}', 400, "invalid_json"),
        (b'{"imageUrl": "https://example.com/%s"}' % (b"a" * 8192), 400, "invalid_image_url"),
        (b'{"imageUrl": "data:image/png;base64,@@"}', 400, "invalid_image_url"),
        (b'{"imageUrl": "data:image/png;base64"}', 400, "invalid_image_url"),
        (b'{"imageUrl": "data:,%s"}' % (b"%41" * 1_000_000), 422, "unsupported_image"),
        ('{"imageUrl": "data:;base64,€"}'.encode(), 400, "invalid_image_url"),
        (b'{"imageUrl": "data:,a", "maxNewTokens": 63}', 400, "invalid_parameter"),
        (b'{"imageUrl": "data:,hello"}', 422, "unsupported_image"),
        (b'{"imageUrl": "data:,a", "numBeams": 6}', 400, "invalid_parameter"),
        (b'{"imageUrl": "data:,a", "numBeams": "2"}', 400, "invalid_parameter"),
        (b'{"imageUrl": "data:,a", "maxNewTokens": 0}', 400, "invalid_parameter"),
        (b'{"imageUrl": "data:,a", "maxNewTokens": true}', 400, "invalid_parameter"),
        (b'{"imageUrl": "data:,a", "prompt": ["a"]}', 400, "invalid_parameter"),
        (b'{"imageUrl": "data:,a", "prompt": "\\ud800"}', 400, "invalid_json"),
        (b'{"imageUrl": "data:,a", "prompt": "%s"}' % (b"x" * 501), 400, "invalid_parameter"),
        (b'{"imageUrl": "data:,a", "prompt": "%s"}' % (b"dog " * 80), 400, "invalid_parameter"),
    ],
)
def test_malformed_json_is_the_callers_fault(service: Service, body: bytes, status: int, code: str) -> None:
    assert_error(service.post(data=body, headers={"Content-Type": "application/json"}), status, code)


@pytest.mark.parametrize(
    ("picture", "status", "code"),
    [
        (b"", 422, "unsupported_image"),
        (b"<html>not a picture</html>", 422, "unsupported_image"),
        (PICTURE[: len(PICTURE) // 2], 422, "corrupt_image"),
        (png_header(60_000, 60_000), 422, "too_many_pixels"),
        (PICTURE + bytes(10 * MIB), 413, "image_too_large"),
        (bytes(16 * MIB), 413, "body_too_large"),
    ],
)
def test_unusable_pictures_are_refused(service: Service, picture: bytes, status: int, code: str) -> None:
    assert_error(service.upload(picture), status, code)


def test_other_bodies_are_not_read(service: Service) -> None:
    assert_error(service.post(data=b"a", headers={"Content-Type": "text/plain"}), 415, "unsupported_content_type")
    assert_error(service.post(data=b"a"), 415, "unsupported_content_type")
    assert_error(service.post(), 400, "missing_image")
    assert_error(service.post(data={"prompt": "a dog"}), 400, "missing_image")


def test_a_page_in_a_picture_s_place_is_called_one(service: Service) -> None:
    with BadServer(_answer_a_page) as pages:
        fetched = service.post(json={"imageUrl": pages.url("/a.jpg")})
    sent = service.post(files={"image": ("a.jpg", PAGE)})
    for response in (fetched, sent):
        assert_error(response, 422, "unsupported_image")
        assert "is an HTML page" in response.json()["error"]


def test_a_form_of_too_many_parts_and_bad_framing_are_malformed(service: Service) -> None:
    parts = {f"field{number}": (None, "x") for number in range(30)}
    assert_error(service.post(files=parts), 400, "invalid_request")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert_error(service.post(data=b"a=b&" * 100_000, headers=form), 400, "invalid_request")
    head = b"POST /local-caption HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n"
    for rest in (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"Content-Length: 9\r\n\r\nabc"):
        with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
            connection.sendall(head + rest)
            connection.shutdown(socket.SHUT_WR)
            answer = HTTPResponse(connection)
            answer.begin()
            assert (answer.status, json.loads(answer.read())["code"]) == (400, "invalid_request")


def test_two_million_header_lines_in_one_part_take_no_memory(service: Service) -> None:
    body = b"--x\r\nContent-Disposition: form-data; name=image\r\n" + b"a: b\r\n" * 2_000_000 + b"\r\na\r\n--x--\r\n"
    (worker,) = service.worker_pids()
    Path(f"/proc/{worker}/clear_refs").write_text("5")
    before = memory(worker, "VmRSS")
    response = service.post(data=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert_error(response, 400, "invalid_request")
    assert memory(worker, "VmHWM") - before < 40 * MIB  # the body itself is 12 MB


def test_a_json_body_near_the_limit_is_captioned_whatever_its_prompt(service: Service) -> None:
    padded = base64.b64encode(PICTURE + bytes(7 * MIB)).decode()  # what follows the picture's end does not count
    for prompt in ("ö", "€", "😀"):
        body = {"imageUrl": f"data:image/jpeg;base64,{padded}", "prompt": prompt}
        for escaped in (True, False):
            sent = json.dumps(body, ensure_ascii=escaped).encode()
            response = service.post(data=sent, headers={"Content-Type": "application/json"})
            assert response.status_code == 200, response.text


def test_a_chunked_body_is_limited_too(service: Service) -> None:
    pieces = (bytes(MIB) for _ in range(17))
    assert_error(service.post(data=pieces, headers={"Content-Type": "image/png"}), 413, "body_too_large")


def test_unknown_paths_and_methods_answer_json(service: Service) -> None:
    assert_error(service.get("/nothing"), 404, "not_found")
    response = service.get("/local-caption")
    assert_error(response, 405, "method_not_allowed")
    assert set(response.headers["Allow"].split(", ")) == {"OPTIONS", "POST"}


def test_the_image_servers_answers_are_told_apart(service: Service, image_server: str) -> None:
    def caption(url: str) -> requests.Response:
        return service.post(json={"imageUrl": url})

    assert_error(caption(f"{image_server}/status/404"), 422, "image_not_found")
    assert_error(caption(f"{image_server}/status/500"), 502, "image_fetch_failed")
    assert_error(caption(f"http://127.0.0.1:{free_port()}/"), 502, "image_fetch_failed")
    assert_error(caption("http://nowhere.invalid/"), 502, "image_fetch_failed")
    with BadServer(answer_with(http_answer(status="429 Slow down", headers=["Retry-After: 7"]))) as busy:
        response = caption(busy.url("/picture.png"))
        assert_error(response, 502, "image_fetch_failed")
        assert response.headers["Retry-After"] == "7"
    with BadServer(drip(b"HTTP/1.1 200 OK\r\n\r\n", b"x")) as slow:
        assert_error(caption(slow.url("/picture.png")), 504, "image_fetch_timeout")


def test_private_addresses_and_odd_ports_are_not_fetched(strict_service: Service) -> None:
    for url in ("http://127.0.0.1/", "http://localhost/", "http://[::ffff:10.0.0.1]/", "http://0x7f.1/"):
        assert_error(authorized(strict_service, json={"imageUrl": url}), 400, "address_not_allowed")
    assert_error(authorized(strict_service, json={"imageUrl": "http://example.com:22/"}), 400, "address_not_allowed")


def test_keys_are_asked_for_when_there_are_any(strict_service: Service) -> None:
    for headers in ({}, {"Authorization": "Bearer third"}, {"Authorization": "first"}, {"Authorization": "Bearer "}):
        response = strict_service.post(json={"imageUrl": "data:,a"}, headers=headers)
        assert_error(response, 401, "unauthorized")
        assert response.headers["WWW-Authenticate"] == "Bearer"
    assert authorized(strict_service, json={"imageUrl": "data:,a"}).status_code == 422
    assert strict_service.get("/healthz").status_code == 200


def test_when_permits_are_taken_others_are_turned_away_at_once(start_service: Callable[..., Service]) -> None:
    answer_now = threading.Event()

    def answer_later(connection: Connection) -> None:
        connection.read_request()
        assert answer_now.wait(60)
        connection.send(http_answer(PICTURE))

    fetching = {"FETCH_ALLOW_PRIVATE_ADDRESSES": "true", "FETCH_ALLOWED_PORTS": "*"}
    service = start_service(MAX_CONCURRENT_REQUESTS="1", **fetching).wait_until_ready()
    with BadServer(answer_later) as images, ThreadPoolExecutor(1) as caller:
        asked = {"imageUrl": images.url("/a.jpg")}
        first = caller.submit(service.post, json=asked)
        wait_until(lambda: bool(images.requests))
        response = service.post(json=asked)
        assert_error(response, 429, "overloaded")
        assert int(response.headers["Retry-After"]) >= 1
        assert service.get("/healthz").status_code == 200
        answer_now.set()
        assert first.result(60).status_code == 200
    assert service.stop() == 0


def no_engine() -> Engine:
    raise RuntimeError("a bug in loading")


@pytest.fixture
def serve_app() -> Iterator[Callable[[Callable[[], Engine]], str]]:
    """Serve the application with a model of the test's own."""
    servers = []

    def serve(load: Callable[[], Engine]) -> str:
        app = create_app(Settings(_env_file=None), lambda settings, batcher: Captioner(load, batcher))
        server = make_server("127.0.0.1", 0, app, threaded=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append((server, app.extensions["decoders"]))
        return f"http://127.0.0.1:{server.port}/local-caption"

    yield serve
    for server, decoders in servers:
        server.shutdown()
        server.server_close()
        decoders.close()


def test_a_bug_is_logged_and_not_shown(
    serve_app: Callable[[Callable[[], Engine]], str], caplog: pytest.LogCaptureFixture
) -> None:
    url = serve_app(partial(BreakingEngine, "a secret"))
    requests.post(url, data=PICTURE, headers={"Content-Type": "image/jpeg"}, timeout=5)  # starts the model
    wait_until(
        lambda: requests.post(url, data=PICTURE, headers={"Content-Type": "image/jpeg"}, timeout=5).status_code == 500,
        timeout_s=10,
    )
    response = requests.post(url, data=PICTURE, headers={"Content-Type": "image/jpeg"}, timeout=5)
    assert_error(response, 500, "internal_error")
    assert "secret" not in response.text
    assert "ZeroDivisionError: a secret" in caplog.text
    assert response.json()["requestId"] in caplog.text


def test_a_model_that_loads_or_failed_says_so(serve_app: Callable[[Callable[[], Engine]], str]) -> None:
    loading = threading.Event()

    def load() -> Engine:
        loading.wait()
        return no_engine()

    url = serve_app(load)
    response = requests.post(url, json={"imageUrl": "data:,a"}, timeout=5)
    assert_error(response, 503, "model_loading")
    assert int(response.headers["Retry-After"]) >= 1
    several = requests.post(f"{url}s", json={"imageUrls": ["data:,a"] * 64}, timeout=5)
    assert_error(several, 503, "model_loading")  # it was 200, with no time to come again, and 64 pictures lost
    assert int(several.headers["Retry-After"]) >= 1
    loading.set()
    wait_until(
        lambda: requests.post(url, json={"imageUrl": "data:,a"}, timeout=5).json()["code"] == "model_failed",
        timeout_s=10,
    )
    assert_error(requests.post(url, json={"imageUrl": "data:,a"}, timeout=5), 503, "model_failed")


def test_the_table_is_the_tree() -> None:
    def classes(root: type[errors.CaptioningError]) -> list[type[errors.CaptioningError]]:
        own = [child for child in root.__subclasses__() if child.__module__ == errors.__name__]
        return [root, *(found for child in own for found in classes(child))]

    drawn = errors.__doc__ or ""
    for error in classes(errors.CaptioningError):
        assert error.__name__ in drawn
        assert error.sentence.endswith(".")
        if "code" in vars(error):
            assert f"{error.status} {error.code}" in drawn


def test_after_all_that_the_same_worker_captions(service: Service) -> None:
    """Run last in this file: pytest keeps the order."""
    workers = service.worker_pids()
    for body in (b"{", b'{"imageUrl": "data:,a"}'):
        service.post(data=body, headers={"Content-Type": "application/json"})
    assert service.upload(PICTURE).json().keys() == {"output"}
    assert service.worker_pids() == workers
    assert service.log.read_text().count("Booting worker") == 1


def _answer_a_page(connection: Connection) -> None:
    connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PAGE) + PAGE)


def authorized(service: Service, **kwargs: object) -> requests.Response:
    return service.post(headers={"Authorization": "Bearer second"}, **kwargs)


def memory(pid: int, which: str) -> int:
    """Return bytes: VmRSS are those that the process holds, VmHWM the most since `clear_refs` was written (proc(5))."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(rf"{which}:\s+(\d+)", status)[0]) * 1024


def slow_upload(service: Service) -> socket.socket:
    """Begin an upload whose body never ends."""
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=20)
    connection.sendall(
        b"POST /local-caption HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer first\r\n"
        b"Content-Type: image/png\r\nContent-Length: 1000\r\n\r\nabc"
    )
    return connection


def test_a_drain_that_begins_while_the_model_loads_stays_a_drain() -> None:
    may_load = threading.Event()

    def load() -> Engine:
        assert may_load.wait(60)
        return BreakingEngine("a secret")

    app = create_app(Settings(_env_file=None), lambda settings, batcher: Captioner(load, batcher))
    client = app.test_client()
    app.extensions["captioner"].start()
    assert client.get("/readyz").get_json()["status"] == "loading"
    app.extensions["lifecycle"].drain()
    assert client.get("/readyz").get_json()["status"] == "draining"
    may_load.set()
    wait_until(lambda: app.extensions["captioner"].status == "ready")
    assert (client.get("/readyz").status_code, client.get("/readyz").get_json()["status"]) == (503, "draining")
    refused = client.post("/local-caption", json={"imageUrl": "https://example.com/a.jpg"})
    assert (refused.status_code, refused.get_json()["code"]) == (503, "shutting_down")
