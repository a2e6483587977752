"""Whatever ends a worker, nothing of it stays: no descriptor of the master, no file, no process."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Service, wait_until


def kept(service: Service, temporary: Path) -> tuple[Counter[str], list[str], list[str]]:
    """Return what the master has open, which files there are, and whose metrics, without what names an instance."""
    descriptors = Path(f"/proc/{service.process.pid}/fd")
    opened = Counter(os.readlink(each).partition(":[")[0].rpartition("/")[0] for each in descriptors.iterdir())
    metrics = Path("/dev/shm").glob(f"captioning-metrics-{service.process.pid}-*/*")
    places = sorted(each.name.translate(str.maketrans("", "", "0123456789")) for each in metrics)
    return opened, places, sorted(os.listdir(temporary))


def test_nothing_of_a_killed_worker_stays(start_service: Callable[..., Service], tmp_path: Path) -> None:
    service = start_service(TMPDIR=str(tmp_path)).wait_until_ready()

    def replace_the_worker() -> None:
        [worker] = service.worker_pids()
        decoders = decoders_of(worker)
        assert decoders
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: service.worker_pids() not in ([], [worker]))
        wait_until(lambda: bool(decoders_of(service.worker_pids()[0])))
        wait_until(lambda: not any(Path(f"/proc/{decoder}").exists() for decoder in decoders))

    replace_the_worker()
    before = kept(service, tmp_path)
    assert before[1]
    for _ in range(4):
        replace_the_worker()
    assert kept(service, tmp_path) == before
    assert service.stop() == 0
    assert os.listdir(tmp_path) == before[2]
    assert not list(Path("/dev/shm").glob(f"*-{service.process.pid}-*"))


def decoders_of(worker: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{worker}/task").iterdir():
        try:
            found += [int(pid) for pid in (task / "children").read_text().split()]
        except OSError:
            continue  # the thread has ended since
    return found
