"""An engine that cannot go on is seen: callers are told, and the process is replaced, but not for ever."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from tests.conftest import SAMPLES, Service, wait_until

Start = Callable[..., Service]
PICTURES = [SAMPLES[0].read_bytes() + bytes([number]) for number in range(8)]


def start_broken(start_service: Start, captions_before: int) -> Service:
    return start_service(application="tests.server.broken_engine:app", CAPTIONS_BEFORE=str(captions_before))


def test_a_worker_whose_engine_stops_working_is_replaced(start_service: Start) -> None:
    service = start_broken(start_service, captions_before=2).wait_until_ready()
    [first] = service.worker_pids()
    assert [service.upload(picture).status_code for picture in PICTURES[:2]] == [200, 200]
    failed = service.upload(PICTURES[2])
    assert (failed.status_code, failed.json()["code"]) == (500, "internal_error")
    wait_until(lambda: first not in service.worker_pids() and len(service.worker_pids()) == 1)
    service.wait_until_ready()
    assert service.upload(PICTURES[3]).status_code == 200
    log = service.log.read_text()
    assert log.count("The model cannot go on.") == 1
    assert "the engine is broken" in log
    assert service.stop() == 0


def test_a_worker_that_never_captioned_ends_the_service(start_service: Start) -> None:
    service = start_broken(start_service, captions_before=0).wait_until_ready()
    try:
        answer = service.upload(PICTURES[0])
        assert answer.json()["code"] in ("internal_error", "model_failed")
    except requests.ConnectionError:
        pass  # the process may end before the answer is out
    assert service.process.wait(timeout=60) == 3


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_reload_without_a_model_leaves_the_worker_that_has_one(
    start_service: Start, int8_folder: Path, tmp_path: Path, comes_back: bool
) -> None:
    """A folder that was away during one HUP ended the whole service with 3, the worker that captioned with it."""
    folder, away = tmp_path / "model", tmp_path / "away"
    shutil.copytree(int8_folder, folder)
    service = start_service(ENGINE="int8", MODEL_ID=str(folder)).wait_until_ready()
    [first] = service.worker_pids()
    folder.rename(away)
    service.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "this one tries again" in service.log.read_text())
    assert {service.upload(picture).status_code for picture in PICTURES} == {200}
    assert service.worker_pids()[0] == first
    if comes_back:
        away.rename(folder)
    os.kill(first, signal.SIGKILL)  # nobody else serves now: it tries at once
    if not comes_back:
        assert service.process.wait(timeout=60) == 3
        return
    service.wait_until_ready()
    assert first not in service.worker_pids()
    assert service.upload(PICTURES[0]).status_code == 200
    assert service.stop() == 0
