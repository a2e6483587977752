"""Memory in the long run and at its worst; the long run at full length is benchmarks/soak.py."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from benchmarks.server import memory
from benchmarks.worst_pictures import distinct, worst_pngs
from captioning.settings import MIB, Settings
from tests.conftest import EMOJI_MODEL, ROOT, Service


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "int8"])
def test_memory_does_not_grow_with_mixed_requests(engine: str, int8_folder: Path, tmp_path: Path) -> None:
    model = EMOJI_MODEL if engine == "torch" else int8_folder
    size = ["--requests", "300", "--settled", "100", "--bound", "0.08", "--max-pixels", "2000000"]
    command = [sys.executable, "-m", "benchmarks.soak", "--engine", engine, "--model", str(model), *size]
    command += ["--out", str(tmp_path / "soak.json"), "--plot", str(tmp_path / "soak.png")]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert (tmp_path / "soak.png").stat().st_size > 10_000


@pytest.mark.slow
def test_as_many_40_megapixel_pngs_as_are_let_in_stay_within_the_budgets(start_service: Callable[..., Service]) -> None:
    service = start_service().wait_until_ready()
    settings = Settings(_env_file=None)
    (worker,) = service.worker_pids()
    pngs = list(worst_pngs().values())
    at_once = settings.max_concurrent_requests
    service.upload(pngs[-1])
    start = memory(worker)["RssAnon"]
    most, done = [start], threading.Event()

    def watch() -> None:
        while not done.is_set():
            most.append(memory(worker)["RssAnon"])
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(at_once) as callers:
            answers = list(callers.map(service.upload, map(distinct, (pngs * at_once)[:at_once], count())))
    finally:
        done.set()
        watcher.join()
    print(f"{max(most) // MIB} MiB at most")
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses[200] > 0
    assert set(statuses) <= {200, 429, 504}
    assert max(most) < start + settings.decode_memory_bytes + 64 * MIB
    assert service.worker_pids() == [worker]
    assert service.upload(pngs[-1]).status_code == 200
    assert service.stop() == 0
