"""What the service says of itself at the start: what is in force, and what looks like a mistake."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captioning.observe.start_report import log_start, misspelt_settings
from captioning.settings import Settings
from tests.conftest import EMOJI_MODEL, Service, is_there, wait_until


def start_lines(service: Service) -> list[dict[str, Any]]:
    """Return what was logged at the start, once that is all there."""

    def lines() -> list[dict[str, Any]]:
        logged = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in logged if line["logger"] in ("captioning.start", "gunicorn.error")]

    wait_until(lambda: any("Booting worker" in line["message"] for line in lines()))
    return [line for line in lines() if line["logger"] == "captioning.start"]


def test_one_line_at_the_start_says_what_is_in_force(start_service: Callable[..., Service]) -> None:
    """The address is the one that is really listened on: here an IPv6 one, which can be reached."""
    service = start_service(HOST="::1", NUM_THREADS="1", API_KEYS="gateway:s3cret", WEB_CONCURRENCY="2")
    (line,) = start_lines(service)
    expected = {
        "level": "INFO",
        "model": str(EMOJI_MODEL),
        "revision": None,
        "engine": "torch",
        "threads": 1,
        "workers": 2,
        "listens_on": f"[::1]:{service.port}",
        "requests": 64,
        "api_keys": 1,
    }
    assert {name: line[name] for name in expected} == expected
    assert "s3cret" not in service.log.read_text()
    wait_until(lambda: is_there(f"http://[::1]:{service.port}/healthz"))


def test_the_line_names_both_an_export_and_the_model_that_it_was_made_from(
    start_service: Callable[..., Service], int8_folder: Path
) -> None:
    (line,) = start_lines(start_service(ENGINE="int8", MODEL_ID=str(int8_folder), API_KEYS="s3cret"))
    assert (line["model"], line["model_id"]) == (str(EMOJI_MODEL), str(int8_folder))


def test_what_looks_like_a_mistake_is_a_warning_at_the_start(start_service: Callable[..., Service]) -> None:
    service = start_service(MAX_CONCURENT_REQUESTS="8", NODE_ENV="production", GUNICORN_CMD_ARGS="--workers 1")
    started, *warnings = start_lines(service)
    assert started["requests"] == 64
    assert [(line["level"], line["message"]) for line in warnings] == [
        (
            "WARNING",
            "MAX_CONCURENT_REQUESTS is not a setting of this service and has no effect. "
            "Is MAX_CONCURRENT_REQUESTS meant?",
        ),
        ("WARNING", "API_KEYS is not set: whoever reaches this address may ask for captions."),
    ]


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "127.8.0.1:80", "[::1]:8000", "localhost:8000", "unix:/run/a"])
def test_who_listens_on_its_own_machine_alone_is_not_warned_of_missing_keys(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    log_start(Settings(_env_file=None), {}, [address], 1)
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


@pytest.mark.parametrize(
    "others", ["0.0.0.0:8000", "[::]:8000", "10.0.0.1:80", "captions.example:8000", ":8000", "fd://3"]
)
def test_who_listens_elsewhere_too_is_warned_of_missing_keys(others: str, caplog: pytest.LogCaptureFixture) -> None:
    log_start(Settings(_env_file=None), {}, ["127.0.0.1:8000", others], 1)
    [warning] = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("API_KEYS is not set")


def test_misspelt_settings_are_found_and_others_are_left_alone() -> None:
    misspelt = {
        "MAX_CONCURENT_REQUESTS": "MAX_CONCURRENT_REQUESTS",
        "max_concurrent_request": "MAX_CONCURRENT_REQUESTS",
        "API_KEY": "API_KEYS",
        "MODELID": "MODEL_ID",
        "MODEL_NAME": "MODEL_ID",
        "NUM_THREAD": "NUM_THREADS",
        "FETCH_TIMEOUT": "FETCH_TIMEOUT_S",
        "CACHE_TTL": "CACHE_TTL_S",
        "CACHE_REDIS_URL": "CACHE_URL",
        "BATCH_SIZE": "BATCH_MAX_SIZE",
        "CORS_ORIGIN": "CORS_ORIGINS",
        "LOGLEVEL": "LOG_LEVEL",
        "WEB_CONCURENCY": "WEB_CONCURRENCY",
    }
    others = [
        "HOME", "HOSTNAME", "PATH", "PYTHONPATH", "NODE_ENV",
        "LANG", "SHELL", "TERM", "PWD", "LOGNAME",
        "HF_HOME", "HF_TOKEN", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "RENDER_SERVICE_ID",
        "GUNICORN_CMD_ARGS", "XDG_CACHE_HOME", "PIP_CACHE_DIR", "REDIS_URL", "DATABASE_URL",
        "PYTHONUNBUFFERED", "SSL_CERT_FILE", "HTTPS_PROXY", "KUBERNETES_SERVICE_PORT", "HOST",
        "model_id", "PORT",
    ]  # fmt: skip
    assert misspelt_settings([*misspelt, *others]) == [
        f"{name} is not a setting of this service and has no effect. Is {setting} meant?"
        for name, setting in misspelt.items()
    ]
