"""An engine that cannot go on is seen: callers are told, and the process is replaced, but not for ever."""

from __future__ import annotations

from collections.abc import Callable

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
