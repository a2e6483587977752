"""The heartbeat: a worker that hangs is found, and one that a frozen machine kept from beating is not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from types import SimpleNamespace

import pytest

from captioning.server.heartbeat import STOOD_STILL_S, Heartbeat
from tests.conftest import Service, wait_until


class Clock:
    def __init__(self) -> None:
        self.now = time.monotonic()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def heartbeat(clock: Clock) -> Iterator[Heartbeat]:
    cfg = SimpleNamespace(umask=0, worker_tmp_dir=None, uid=os.geteuid(), gid=os.getegid())
    with closing(Heartbeat(cfg, clock)) as heartbeat:
        beat(heartbeat, clock.now)
        yield heartbeat


def beat(heartbeat: Heartbeat, now: float) -> None:
    os.utime(heartbeat.fileno(), (now, now))


def silence(heartbeat: Heartbeat, clock: Clock) -> float:
    return clock() - heartbeat.last_update()


def test_a_worker_that_does_not_beat_is_found(heartbeat: Heartbeat, clock: Clock) -> None:
    for second in range(40):
        assert silence(heartbeat, clock) == pytest.approx(second)
        clock.now += 1


def test_a_beat_ends_the_silence(heartbeat: Heartbeat, clock: Clock) -> None:
    start = clock.now
    for _ in range(10):
        clock.now += 1
        heartbeat.last_update()
    beat(heartbeat, start + 9)
    assert silence(heartbeat, clock) == pytest.approx(1)


def test_time_in_which_the_master_stood_still_does_not_count(heartbeat: Heartbeat, clock: Clock) -> None:
    clock.now += 1
    heartbeat.last_update()
    clock.now += 3600
    assert silence(heartbeat, clock) == 0
    for second in range(1, 40):  # from then on it counts as always
        clock.now += 1
        assert silence(heartbeat, clock) == pytest.approx(second)


def test_a_gap_that_a_busy_machine_makes_counts(heartbeat: Heartbeat, clock: Clock) -> None:
    for _ in range(10):
        clock.now += STOOD_STILL_S
        last = silence(heartbeat, clock)
    assert last == pytest.approx(10 * STOOD_STILL_S)


def test_a_service_that_was_frozen_goes_on_with_the_same_worker(start_service: Callable[..., Service]) -> None:
    """Frozen in the order in which it hurts most: the master wakes first, and looks before the worker can beat."""
    service = start_service(GUNICORN_CMD_ARGS="--timeout=6").wait_until_ready()
    (worker,) = service.worker_pids()
    for pid in (service.process.pid, worker):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(8)
    os.kill(service.process.pid, signal.SIGCONT)
    time.sleep(2)
    os.kill(worker, signal.SIGCONT)
    assert service.get("/readyz").status_code == 200
    time.sleep(1.5)
    assert service.worker_pids() == [worker]
    assert "WORKER TIMEOUT" not in service.log.read_text()


def test_a_worker_that_hangs_alone_is_replaced(start_service: Callable[..., Service]) -> None:
    service = start_service(GUNICORN_CMD_ARGS="--timeout=3").wait_until_ready()
    (worker,) = service.worker_pids()
    os.kill(worker, signal.SIGSTOP)
    wait_until(lambda: "WORKER TIMEOUT" in service.log.read_text())
    wait_until(lambda: service.worker_pids() not in ([], [worker]))
    assert service.wait_until_ready().get("/healthz").status_code == 200
