"""The server around the captions: how it starts, with and without a model, and that nobody waits for a stranger."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import requests

from tests.bad_servers import BadServer, Connection
from tests.conftest import SAMPLES, Service, wait_until

PICTURE = SAMPLES[0].read_bytes()

Start = Callable[..., Service]


def test_forced_preloading_gives_the_same_captions(start_service: Start, service: Service) -> None:
    """Render's Python runtime sets these arguments; gunicorn then imports the application before it forks."""
    forced = "--preload --access-logfile - --bind=127.0.0.1:PORT"
    preloaded = start_service(GUNICORN_CMD_ARGS=forced, **service.model).wait_until_ready()
    for sample in SAMPLES[:4]:
        picture = sample.read_bytes()
        assert preloaded.upload(picture).json() == service.upload(picture).json()
    assert r"\"POST /local-caption HTTP/1.1\" 200" in preloaded.log.read_text()
    assert preloaded.stop() == 0


def test_two_workers_load_a_model_each(start_service: Start, service: Service) -> None:
    pair = start_service(WEB_CONCURRENCY="2", CACHE_MAX_ENTRIES="0", **service.model).wait_until_ready()
    assert len(pair.worker_pids()) == 2
    wait_until(lambda: pair.log.read_text().count("The model is ready") == 2)
    assert {pair.upload(PICTURE).text for _ in range(6)} == {service.upload(PICTURE).text}
    assert pair.stop() == 0


def test_health_answers_while_the_model_loads(start_service: Start) -> None:
    starting = start_service()
    wait_until(lambda: "Booting worker" in starting.log.read_text())
    assert starting.get("/healthz").json() == {"status": "ok"}
    early = starting.get("/readyz")
    assert (early.status_code, early.json()["status"]) == (503, "loading")
    assert starting.upload(PICTURE).json()["code"] == "model_loading"
    assert starting.wait_until_ready().upload(PICTURE).status_code == 200
    assert starting.stop() == 0


def test_an_unreachable_hub_ends_the_start_with_one_sentence(start_service: Start, tmp_path: Path) -> None:
    """Nothing listens on the endpoint's port; the cache is empty."""
    hub = {
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path),
        "MODEL_ID": "Salesforce/blip-image-captioning-base",
    }
    service = start_service(**hub)
    assert service.process.wait(timeout=60) == 3
    log = service.log.read_text()
    assert log.count("CRITICAL") == 1
    sentence = next(line for line in log.splitlines() if "CRITICAL" in line)
    for part in (
        "Salesforce/blip-image-captioning-base",
        "could not be downloaded",
        "refused",
        "access to the hub",
        "MODEL_ID=",
    ):
        assert part in sentence
    assert "Traceback" not in log
    assert log.count("Booting worker") == 1


def test_a_folder_without_a_model_ends_the_start_with_one_sentence(start_service: Start, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for model in (tmp_path, tmp_path / "nowhere"):
        service = start_service(MODEL_ID=str(model))
        assert service.process.wait(timeout=60) == 3
        log = service.log.read_text()
        assert log.count("CRITICAL") == 1
        assert str(model) in log
        assert "Traceback" not in log


def test_a_bad_setting_ends_the_start_and_is_named(start_service: Start) -> None:
    service = start_service(MAX_BODY_BYTES="lots", NUM_BEAMS="9")
    assert service.process.wait(timeout=30) == 1
    log = service.log.read_text()
    assert "MAX_BODY_BYTES" in log
    assert "NUM_BEAMS" in log
    assert "Traceback" not in log


def test_slow_image_servers_hold_up_neither_uploads_nor_health(service: Service) -> None:
    """More callers than may download at once ask for a server that says nothing; times are judged by those before."""
    go_on = threading.Event()

    def say_nothing_yet(connection: Connection) -> None:
        connection.read_request()
        go_on.wait(60)

    def median_s(ask: Callable[[], requests.Response]) -> float:
        took = []
        for _ in range(9):
            started = time.perf_counter()
            assert ask().status_code == 200
            took.append(time.perf_counter() - started)
        return median(took)

    asks = {"upload": lambda: service.upload(PICTURE), "health": lambda: service.get("/healthz")}
    alone = {name: median_s(ask) for name, ask in asks.items()}
    patient = {"X-Request-Timeout-Ms": "30000"}
    with BadServer(say_nothing_yet) as slow, ThreadPoolExecutor(60) as callers:
        for _ in range(60):
            callers.submit(service.post, json={"imageUrl": slow.url("/a.png")}, headers=patient)
        wait_until(lambda: slow.connections == 48)
        beside = {name: median_s(ask) for name, ask in asks.items()}
        go_on.set()
    for name, seconds in beside.items():
        assert seconds < max(20 * alone[name], 2.0), name  # whoever waited for a silent server would take 15 s
