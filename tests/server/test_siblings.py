"""Processes that share a listening socket see each other's state, and that of one that was killed."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests

from captioning.server.siblings import Siblings
from tests.conftest import ROOT, SAMPLES, Service, wait_until

PICTURE = SAMPLES[0].read_bytes()

# A sibling does what it is told, line by line.
_SIBLING = """
import socket, sys
from captioning.server.siblings import Siblings

siblings = Siblings(socket.socket(fileno=int(sys.argv[1])))
print("here", flush=True)
for line in sys.stdin:
    getattr(siblings, line.strip())()
    print("done", flush=True)
"""


class Sibling:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._read()

    def tell(self, what: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        self._read()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@contextmanager
def sibling_of(listener: socket.socket) -> Iterator[Sibling]:
    command = [sys.executable, "-c", _SIBLING, str(listener.fileno())]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        pass_fds=[listener.fileno()],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        sibling = Sibling(process)
        yield sibling
        sibling.kill()


def states(siblings: Siblings) -> tuple[bool, bool, bool]:
    return siblings.any_loading(), siblings.any_ready(), siblings.any_serving()


def test_a_worker_sees_the_life_of_a_sibling(listener: socket.socket) -> None:
    mine = Siblings(listener)
    mine.say_leaving()
    assert states(mine) == (False, False, False)
    with sibling_of(listener) as sibling:
        assert states(mine) == (True, False, False)
        sibling.tell("say_ready")
        assert states(mine) == (False, True, True)
        sibling.tell("say_leaving")
        assert states(mine) == (False, False, True)
        sibling.tell("say_closed")
        assert states(mine) == (False, False, False)


def test_a_sibling_that_was_killed_is_gone(listener: socket.socket) -> None:
    mine = Siblings(listener)
    mine.say_leaving()
    with sibling_of(listener) as sibling:
        sibling.tell("say_ready")
        sibling.kill()
        assert states(mine) == (False, False, False)


def test_whoever_leaves_is_not_ready_whatever_its_model_says_later(listener: socket.socket) -> None:
    mine = Siblings(listener)
    with sibling_of(listener) as sibling:
        sibling.tell("say_leaving")
        sibling.tell("say_ready")
        assert states(mine) == (False, False, False)


def test_asking_about_others_leaves_ones_own_state_as_it_is(listener: socket.socket) -> None:
    mine = Siblings(listener)
    with sibling_of(listener) as sibling:
        sibling.tell("say_ready")
        for question in ("any_loading", "any_ready", "any_serving"):
            sibling.tell(question)
        assert states(mine) == (False, True, True)


def test_once_a_worker_says_that_it_is_ready_nobody_meets_one_that_is_not(
    start_service: Callable[..., Service], tmp_path: Path
) -> None:
    files = {"LOADS_AT_ONCE": str(tmp_path / "first"), "OTHERS_LOAD": str(tmp_path / "others")}
    service = start_service(application="tests.server.slow_sibling:app", WEB_CONCURRENCY="2", **files)
    with ThreadPoolExecutor(16) as callers:
        while True:
            with suppress(requests.ConnectionError):
                answer = service.get("/readyz")
                if answer.status_code == 200:
                    break
                assert answer.headers["Connection"] == "close"  # the next request may find a sibling that is ready
        answers = list(callers.map(lambda _: service.upload(PICTURE), range(32)))
    assert {answer.status_code for answer in answers} == {200}
    (tmp_path / "others").touch()
    wait_until(lambda: service.log.read_text().count("The model is ready") == 2)
    assert service.upload(PICTURE).status_code == 200
    assert service.stop() == 0


def test_a_worker_is_no_sibling_of_its_own(listener: socket.socket) -> None:
    mine = Siblings(listener)
    mine.say_ready()
    mine.say_leaving()
    assert not mine.any_ready()
    assert not mine.any_loading()


def test_processes_of_other_sockets_are_no_siblings(listener: socket.socket) -> None:
    mine = Siblings(listener)
    mine.say_leaving()
    with socket.create_server(("127.0.0.1", 0)) as other, sibling_of(other) as sibling:
        sibling.tell("say_ready")
        assert states(mine) == (False, False, False)
