"""A real Redis or Valkey server."""

from __future__ import annotations

import json
import logging
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from captioning.cache import redis_store
from captioning.cache.captions import CacheEntry
from captioning.cache.redis_store import RedisStore
from tests.candidates import made_up
from tests.conftest import free_port, required_program

ENTRY = CacheEntry(made_up("a caption, ünïcödé too"), 60)
FOREIGN = {"text": "foreign", "confidence": 0.9, "score": -0.1, "tokens": 1, "finish_reason": "end"}


class CacheServer:
    """Run redis-server or valkey-server."""

    def __init__(self, folder: Path, **options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._folder = folder
        self._options = {"port": str(self.port), "save": "", "appendonly": "no", "dir": str(folder), **options}
        self.start()

    def start(self) -> None:
        program = required_program("valkey-server", "redis-server")
        arguments = [part for name, value in self._options.items() for part in (f"--{name}", value)]
        with (self._folder / "log").open("wb") as log:
            self.process = subprocess.Popen([program, *arguments], stdout=log, stderr=subprocess.STDOUT)
        eventually(self._answers)

    def ask(self, *command: str | bytes | int) -> Any:
        with redis.Redis(port=self.port, password=self._options.get("requirepass")) as client:
            return client.execute_command(*command)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self._folder / "log").read_text()
        try:
            return bool(self.ask("PING"))
        except redis.ConnectionError:
            return False


def eventually(condition: Callable[[], Any], seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return answer


@contextmanager
def memory_stays_small() -> Iterator[None]:
    """Check that the peak of this process's memory does not grow by more than 20 MB."""

    def peak_kb() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0])

    Path("/proc/self/clear_refs").write_text("5")  # begin a new peak
    before = peak_kb()
    yield
    assert peak_kb() - before < 20_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[CacheServer]:
    server = CacheServer(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_store, "PAUSE_S", 0.2)


def outages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def gets(cache: RedisStore, key: str) -> CacheEntry:
    """Return the cache's entry. At first the cache may still be connecting."""
    entry = eventually(lambda: cache.get(key))
    assert isinstance(entry, CacheEntry)
    return entry


def entry(**changes: object) -> str:
    return json.dumps({"key": "a", "candidates": [FOREIGN], "expires_at": time.time() + 86_400, **changes})
