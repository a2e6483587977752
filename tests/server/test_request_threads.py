"""Who is refused in the main loop, and when."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import Mock

import pytest

from captioning.server import request_threads
from captioning.server.request_threads import RequestThreads, can_log
from captioning.web.admission import REFUSED


@dataclass(eq=False)
class Request:
    """What a connection has of a request that has come."""

    incoming: Any = None
    environ: dict[str, Any] = field(default_factory=dict)
    pipelined: bool = False


def hopeless_request() -> Any:
    return Request(Mock(is_hopeless=True))


def test_the_main_loop_does_not_write_to_a_log_that_nobody_reads() -> None:
    reader, log = os.pipe()
    os.set_blocking(log, False)
    assert can_log(log)
    with suppress(BlockingIOError):
        while True:
            os.write(log, bytes(4096))
    assert not can_log(log)
    os.read(reader, 65_536)
    assert can_log(log)
    os.close(reader)
    os.close(log)


def test_a_health_check_does_not_wait_for_a_long_row_of_refusals() -> None:
    served: list[Any] = []
    threads = RequestThreads(served.append, threads=1)
    hopeless = [hopeless_request() for _ in range(100)]
    health: Any = Request()
    answers = [threads.begin(each) for each in hopeless]
    threads.begin(health).result(timeout=60)
    assert served == [health]

    threads.refuse_some()
    assert 0 < len(served) - 1 < len(hopeless) / 4, "the loop looks for newcomers between two lots"
    while threads.refusals_wait:
        threads.refuse_some()
    assert served[1:] == hopeless, "first come, first served"
    assert all(each.environ[REFUSED] for each in hopeless)
    assert all(answer.done() for answer in answers)


def test_refusals_wait_in_a_thread_for_a_log_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    served_in: list[threading.Thread] = []
    threads = RequestThreads(lambda connection: served_in.append(threading.current_thread()), threads=1)
    answers = [threads.begin(hopeless_request()) for _ in range(20)]
    takes_lines = iter([True, True])
    monkeypatch.setattr(request_threads, "can_log", lambda: next(takes_lines, False))
    while threads.refusals_wait:
        threads.refuse_some()
    for answer in answers:
        answer.result(timeout=60)
    assert served_in.count(threading.current_thread()) == 2


def test_a_bug_met_in_the_main_loop_is_reported_as_if_it_came_from_a_thread() -> None:
    def fail(connection: object) -> None:
        raise RuntimeError("a bug")

    threads = RequestThreads(fail, threads=1)
    answer = threads.begin(hopeless_request())
    threads.refuse_some()
    assert str(answer.exception(timeout=60)) == "a bug"
