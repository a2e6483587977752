"""A worker leaves its place to one that can serve, and only then, whatever happens meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from benchmarks.server import gunicorn
from tests.conftest import SAMPLES, Service, wait_until

PICTURE = SAMPLES[0].read_bytes()
SLOW = "tests.server.slow_sibling:app"


@pytest.fixture
def loading(tmp_path: Path, int8_folder: Path) -> dict[str, str]:
    """Return the settings by which only the first worker loads at once, and the others when OTHERS_LOAD is there."""
    files = {"LOADS_AT_ONCE": str(tmp_path / "first"), "OTHERS_LOAD": str(tmp_path / "others")}
    return {"ENGINE": "int8", "MODEL_ID": str(int8_folder), "WEB_CONCURRENCY": "1", **files}


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGQUIT])
def test_an_old_master_that_is_stopped_at_once_leaves_no_gap(
    loading: dict[str, str], tmp_path: Path, stop: signal.Signals
) -> None:
    """Its worker waits for the new master's, of which nothing is to be seen yet."""
    log, pids = tmp_path / "log", tmp_path / "pid"
    arguments = ("--pid", str(pids))
    with gunicorn(SLOW, settings=loading, arguments=arguments, log=log) as server:

        def caption() -> int:
            url, headers = f"{server.url}/local-caption", {"Content-Type": "image/jpeg"}
            return requests.post(url, data=PICTURE, headers=headers, timeout=60).status_code

        server.process.send_signal(signal.SIGUSR2)
        wait_until(lambda: "Handling signal: usr2" in log.read_text())
        server.process.send_signal(stop)
        try:
            wait_until(lambda: caption() == 200 and log.read_text().count("Booting worker") == 2)
            assert [caption() for _ in range(5)] == [200] * 5
            Path(loading["OTHERS_LOAD"]).touch()
            assert server.process.wait(60) == 0
            assert caption() == 200
        finally:
            for pidfile in (pids, Path(f"{pids}.2")):
                with suppress(OSError):
                    os.kill(int(pidfile.read_text()), signal.SIGTERM)


def test_a_worker_that_served_its_share_stays_until_another_has_come_in_addition(
    start_service: Callable[..., Service], loading: dict[str, str]
) -> None:
    """It left at once where a sibling was ready: when that one was killed, nobody could serve."""
    two = {"WEB_CONCURRENCY": "2", "GUNICORN_CMD_ARGS": "--max-requests 20"}
    service = start_service(application=SLOW, **{**loading, **two})
    others = Path(loading["OTHERS_LOAD"])
    others.touch()
    wait_until(lambda: service.log.read_text().count("The model is ready") == 2)
    others.unlink()
    wait_until(lambda: service.upload(PICTURE).ok and service.log.read_text().count("Booting worker") == 3)
    first, *_ = service.worker_pids()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: first not in service.worker_pids())
    assert [service.upload(PICTURE).status_code for _ in range(5)] == [200] * 5
    others.touch()
    wait_until(lambda: len(service.worker_pids()) == 2)
    assert service.upload(PICTURE).status_code == 200
    assert service.stop() == 0
