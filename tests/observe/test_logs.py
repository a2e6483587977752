"""The log: one JSON object a line, text on a terminal, nothing secret in it, nothing forged."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from http.client import HTTPResponse
from typing import Any, Literal

import pytest
from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging as transformers_logging

from app import create_app
from captioning.observe.logs import adopt_loggers, make_formatter
from captioning.settings import Settings
from model_loader import Captioner
from tests.bad_servers import BadServer, answer_with
from tests.breaking_engine import BreakingEngine
from tests.conftest import EMOJI_MODEL, ROOT, SAMPLES, Service, free_port

PICTURE = SAMPLES[0].read_bytes()
HOSTILE = "\n2030-01-01T00:00:00.000+00:00 CRITICAL captioning.model: forged\r\x1b[2J\x85\u2028\u202e"


def lines_of(service: Service) -> list[dict[str, Any]]:
    return [json.loads(line) for line in service.log.read_text().splitlines()]


def line_about(service: Service, request_id: str) -> dict[str, Any]:
    [line] = [line for line in lines_of(service) if line.get("request_id") == request_id]
    return line


def test_every_line_is_a_json_object_with_the_same_head(service: Service) -> None:
    service.upload(PICTURE)
    lines = lines_of(service)
    assert {"gunicorn.error", "captioning.model", "captioning.requests"} <= {line["logger"] for line in lines}
    for line in lines:
        assert list(line)[:5] == ["timestamp", "level", "logger", "message", "pid"]
        assert datetime.fromisoformat(line["timestamp"]).utcoffset() == timedelta(0)


def test_an_uploads_line_holds_what_became_known_of_it(service: Service) -> None:
    service.upload(PICTURE, params={"prompt": "a secret prompt"})
    answer = service.post(data=PICTURE, headers={"Content-Type": "image/jpeg", "X-Request-Id": "log/upload"})
    line = line_about(service, answer.headers["X-Request-Id"])
    assert (line["level"], line["message"]) == ("INFO", "POST /local-caption 200")
    assert (line["method"], line["route"], line["status"]) == ("POST", "/local-caption", 200)
    assert (line["image_format"], line["image_width"], line["image_height"]) == ("JPEG", 384, 384)
    assert (line["image_bytes"], line["batch_size"]) == (len(PICTURE), 1)
    stages = [line[f"{stage}_ms"] for stage in ("decode", "queue", "encode", "decode_tokens")]
    assert 0 < sum(stages) <= line["total_ms"] + 0.3  # each is rounded
    assert not {"fetch_ms", "image_host", "code", "error", "detail"} & line.keys()
    assert "secret" not in service.log.read_text()


def test_of_an_images_url_only_the_host_is_logged(service: Service) -> None:
    """Whatever becomes of it: found, missing, refused, cut short, or leading on to another URL."""
    refused = f"http://127.0.0.1:{free_port()}"
    redirect = answer_with(b"HTTP/1.1 302 Found\r\nLocation: http://x..y/hush?key=hush\r\n\r\n")
    sound = answer_with(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PICTURE) + PICTURE)
    missing = answer_with(b"HTTP/1.1 404 Not Found\r\n\r\n")
    cut = answer_with(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    with (
        BadServer(sound) as sending,
        BadServer(missing) as lacking,
        BadServer(redirect) as redirecting,
        BadServer(cut) as cutting,
    ):
        bases = {
            "found": sending.url("/hush"),
            "missing": lacking.url("/hush"),
            "refused": f"{refused}/hush",
            "untrusted": f"{cutting.url('/hush').replace('http', 'https')}",
            "cut": cutting.url("/hush"),
            "redirected": redirecting.url("/hush"),
        }
        for name, base in bases.items():
            service.post(json={"imageUrl": f"{base}?key=hush"}, headers={"X-Request-Id": f"log/{name}"})
            line = line_about(service, f"log/{name}")
            assert line["image_host"] == "127.0.0.1"
            assert line["fetch_ms"] > 0
            assert ("code" in line) == (name != "found")
    assert "Connection refused" in line_about(service, "log/refused")["detail"]
    assert "hush" not in service.log.read_text()


def test_keys_and_prompts_are_not_logged(service: Service) -> None:
    headers = {
        "Authorization": "Bearer hidden",
        "Cookie": "hidden",
        "Referer": "http://hidden/",
        "User-Agent": "hidden",
    }
    service.post(
        json={"imageUrl": "data:,of this the first 16 bytes may be logged: hidden", "prompt": "hidden"},
        params={"key": "hidden"},
        headers=headers,
    )
    assert "hidden" not in service.log.read_text()


def test_health_and_metrics_are_logged_at_debug_only(service: Service) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        service.get(path, headers={"X-Request-Id": f"log{path}"})
    service.get("/nothing", headers={"X-Request-Id": "log/nothing"})
    assert line_about(service, "log/nothing")["route"] == "unmatched"
    assert not [
        line for line in lines_of(service) if line.get("request_id") in ("log/healthz", "log/readyz", "log/metrics")
    ]


def test_what_strangers_send_stays_in_its_line(service: Service) -> None:
    before = len(lines_of(service))
    request = (
        b"GET /%0A%7B%22level%22%3A%22CRITICAL%22%7D%0D%1B%E2%80%A8?q=%0A HTTP/1.1\r\nHost: localhost\r\n"
        b"X-Request-Id: forged\tid\r\nConnection: close\r\n\r\n"
    )
    with closing(socket.create_connection(("127.0.0.1", service.port), timeout=20)) as connection:
        connection.sendall(request)
        answer = HTTPResponse(connection)
        answer.begin()
    service.post(json={"imageUrl": "http://forged\u202ehost.invalid/"})
    after = lines_of(service)[before:]
    assert [line["logger"] for line in after] == ["captioning.requests"] * 2
    assert after[0]["message"] == f'GET /\n{{"level":"CRITICAL"}}\r\x1b\u2028 {answer.status}'
    assert re.fullmatch(r"[0-9a-f]{32}", after[0]["request_id"])


@pytest.fixture
def log_in() -> Iterator[Callable[[Literal["text", "json"]], io.StringIO]]:
    """Write the log of this process to memory, too, in the format that is asked for."""
    handler = logging.StreamHandler(io.StringIO())

    def start(log_format: Literal["text", "json"]) -> io.StringIO:
        handler.setFormatter(make_formatter(log_format, handler.stream))
        logging.root.addHandler(handler)
        return handler.stream

    yield start
    logging.root.removeHandler(handler)


def provoke_a_500(request_id: str) -> None:
    """Caption with an engine that has a bug, once it is there."""
    app = create_app(
        Settings(_env_file=None), lambda settings, batcher: Captioner(partial(BreakingEngine, HOSTILE), batcher)
    )
    status = 503
    with closing(app.extensions["decoders"]):
        while status == 503:
            headers = {"Content-Type": "image/jpeg", "X-Request-Id": request_id}
            status = app.test_client().post("/local-caption", data=PICTURE, headers=headers).status_code
            time.sleep(0.01)
    assert status == 500


def test_a_bugs_traceback_is_logged_once_with_its_request(
    log_in: Callable[[Literal["json"]], io.StringIO],
) -> None:
    stream = log_in("json")
    provoke_a_500("bug-1")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    [bug] = [line for line in lines if "traceback" in line]
    assert (bug["level"], bug["logger"], bug["request_id"]) == ("ERROR", "captioning.errors", "bug-1")
    assert bug["traceback"].startswith("Traceback (most recent call last):\n")
    assert bug["traceback"].endswith(f"ZeroDivisionError: {HOSTILE}")
    answered = [line for line in lines if line["logger"] == "captioning.requests" and line["status"] == 500]
    assert [line["code"] for line in answered] == ["internal_error"]
    assert stream.getvalue().count("ZeroDivisionError: ") == 1


def test_in_text_nothing_can_be_taken_for_a_line_that_is_none(
    log_in: Callable[[Literal["text"]], io.StringIO],
) -> None:
    stream = log_in("text")
    provoke_a_500("bug-2")
    logging.getLogger("captioning.test").warning("said %s", HOSTILE, extra={"host": HOSTILE, "size": 7})
    text = stream.getvalue()
    heads = [line for line in text.split("\n") if line and not line.startswith("    ")]
    assert all(re.match(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00 [A-Z]+ [a-z.]+: ", line) for line in heads)
    assert not [line for line in heads if "2030" in line[:4]]
    assert not re.search("[\r\x1b\x85\u2028\u202e]", text)
    assert heads[-1].endswith(" size=7")
    assert r'host="\n2030' in heads[-1]
    assert text.count("Traceback") == 1


def test_libraries_that_bring_a_handler_log_as_all_others_do(
    log_in: Callable[[Literal["json"]], io.StringIO], capsys: pytest.CaptureFixture[str]
) -> None:
    adopt_loggers("transformers", "huggingface_hub")
    stream = log_in("json")
    transformers_logging.get_logger("transformers.some_model").warning("a %s", "warning")
    hub_logging.get_logger("huggingface_hub.some_file").warning("another")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["a warning", "another"]
    assert capsys.readouterr().err == ""


def test_on_a_terminal_the_log_is_text() -> None:
    port = free_port()
    master, slave = pty.openpty()
    inherited = {name: value for name, value in os.environ.items() if name != "GUNICORN_CMD_ARGS"}
    environment = {**inherited, "PORT": str(port), "MODEL_ID": str(EMOJI_MODEL), "LOG_FORMAT": "auto"}
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "wsgi:app"], cwd=ROOT, env=environment, stdout=slave, stderr=slave
    )
    os.close(slave)
    with os.fdopen(master, errors="replace") as terminal:
        seen = [until(terminal, "Booting worker")]
        with closing(socket.create_connection(("127.0.0.1", port), timeout=60)) as connection:
            connection.sendall(b"GET /no%0Athing HTTP/1.1\r\nHost: a\r\nX-Request-Id: on-a-terminal\r\n\r\n")
            seen.append(until(terminal, "on-a-terminal"))
        process.terminate()
        process.wait(60)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00 INFO captioning\.requests: GET /no\\nthing 404 request_id=on-a-terminal "
        r'method=GET route=unmatched status=404 code=not_found error="There is .*" total_ms=[\d.]+',
        seen[1],
    )
    assert re.fullmatch(r"\d{4}-\S+ INFO gunicorn\.error: Booting worker with pid: \d+", seen[0])


def until(terminal: io.TextIOWrapper, words: str) -> str:
    """Return the next line that holds the words."""
    return next(line.rstrip() for line in terminal if words in line)


def test_a_thread_that_ends_with_an_error_is_logged_as_all_else_is() -> None:
    program = """
import threading
from captioning.observe.logs import configure_logging
from captioning.settings import Settings
configure_logging(Settings(log_format="json"))
threading.Thread(target=lambda: 1 / 0, name="metrics").start()
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    [line] = map(json.loads, ran.stderr.splitlines())
    assert (line["level"], line["message"]) == ("CRITICAL", "The thread metrics has ended.")
    assert line["traceback"].endswith("ZeroDivisionError: division by zero")


def test_timestamps_are_utc() -> None:
    record = logging.LogRecord("a", logging.INFO, "", 0, "words", None, None)
    record.created = datetime(2026, 1, 2, 3, 4, 5, 6000, UTC).timestamp()
    assert (
        json.loads(make_formatter("json", io.StringIO()).format(record))["timestamp"] == "2026-01-02T03:04:05.006+00:00"
    )
