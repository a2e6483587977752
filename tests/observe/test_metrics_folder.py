"""The folder that workers share: it does not grow, nobody dies of it, and the service does without it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import ROOT, SAMPLES, Service, remounted, wait_until

PICTURE = SAMPLES[0].read_bytes()

# A master that starts workers one after another; each counts once, holds something, and is killed or ends.
_MASTER = """
import os, signal, sys
from pathlib import Path
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from captioning.observe.metrics_folder import (
    forget_dead_workers, join_metrics_folder, make_metrics_folder, metrics_folder
)

make_metrics_folder([sys.argv[1]])
folder = metrics_folder()

def work():
    join_metrics_folder()
    registry = CollectorRegistry()
    Counter("done", "d", registry=registry).inc()
    Gauge("held", "h", ["worker"], registry=registry, multiprocess_mode="livesum").labels(str(os.getpid())).set(1)

sizes = []
for number in range(30):
    pid = os.fork()
    if not pid:
        work()
        os.kill(os.getpid(), signal.SIGKILL if number % 2 else signal.SIGTERM)
    os.waitpid(pid, 0)
    forget_dead_workers()
    sizes.append(sum(file.stat().st_size for file in folder.iterdir()))
registry = CollectorRegistry()
MultiProcessCollector(registry, path=str(folder))
print(generate_latest(registry).decode())
print("# sizes", *sorted(set(sizes)))
"""


def test_counts_stay_and_the_folder_does_not_grow_whatever_ends(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", _MASTER, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    values = {sample.name: sample.value for f in text_string_to_metric_families(run.stdout) for sample in f.samples}
    assert values == {"done_total": 30.0}
    sizes = run.stdout.splitlines()[-1].split()[2:]
    assert len(sizes) == 1, sizes
    assert not list(tmp_path.iterdir()), "the folder outlives its master"


def test_the_folder_of_a_killed_master_goes_when_the_next_one_starts(tmp_path: Path) -> None:
    make = (
        "import os, signal, sys; from captioning.observe.metrics_folder import make_metrics_folder;"
        "make_metrics_folder([sys.argv[1]]);"
    )
    subprocess.run([sys.executable, "-c", make + "os.kill(os.getpid(), signal.SIGKILL)", str(tmp_path)], cwd=ROOT)
    assert len(list(tmp_path.iterdir())) == 1
    subprocess.run([sys.executable, "-c", make, str(tmp_path)], cwd=ROOT, check=True)
    assert not list(tmp_path.iterdir())


def metric(service: Service, name: str) -> float:
    lines = service.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"captioning_{name}"))


FULL = "mount -t tmpfs -o size=120k tmpfs /dev/shm"
READ_ONLY = "mount -t tmpfs -o ro tmpfs /dev/shm"


@pytest.mark.parametrize("mounts", [FULL, READ_ONLY], ids=["full", "read-only"])
def test_without_shared_memory_the_folder_lies_elsewhere(start_service: Callable[..., Service], mounts: str) -> None:
    """Of 120 kB, workers that were replaced a few times left nothing; then each died of SIGBUS, once a second."""
    service = start_service(mounts=mounts).wait_until_ready()
    for _ in range(3):
        (worker,) = service.worker_pids()
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda worker=worker: service.worker_pids() not in ([], [worker]))  # type: ignore[misc]
        service.wait_until_ready()
    assert service.upload(PICTURE).status_code == 200
    assert metric(service, "worker_starts_total") == 4
    assert "SIGBUS" not in service.log.read_text()
    assert service.stop() == 0


def test_a_folder_that_takes_no_more_files_does_not_end_the_service(
    start_service: Callable[..., Service], int8_folder: Path
) -> None:
    """The master ended at one worker more, whose sign of life is a file of its own."""
    engine = {"ENGINE": "int8", "MODEL_ID": str(int8_folder)}
    service = start_service(mounts="mount -t tmpfs -o nr_inodes=100 tmpfs /dev/shm", **engine).wait_until_ready()
    shared = Path(f"/proc/{service.process.pid}/root/dev/shm")
    with suppress(OSError):  # until it is full
        for number in range(1000):
            (shared / str(number)).touch()
    with pytest.raises(OSError, match="No space left"):
        (shared / "one more").touch()
    service.process.send_signal(signal.SIGTTIN)
    wait_until(lambda: len(service.worker_pids()) == 2 or service.process.poll() is not None)
    assert service.upload(PICTURE).status_code == 200
    assert service.stop() == 0


def test_where_nothing_has_room_it_serves_without_and_says_so_once(
    start_service: Callable[..., Service], tmp_path: Path
) -> None:
    mounts = f"{FULL} && mount -t tmpfs -o size=120k tmpfs {tmp_path}"
    service = start_service(mounts=mounts, TMPDIR=str(tmp_path)).wait_until_ready()
    assert service.upload(PICTURE).status_code == 200
    assert metric(service, "worker_starts_total") == 1
    assert service.log.read_text().count("There is no room for metrics") == 1
    assert service.stop() == 0


def test_where_nothing_can_be_written_to_the_start_says_what_to_do(start_service: Callable[..., Service]) -> None:
    """Gunicorn needs a file for each worker's sign of life; its own end was a traceback."""
    folders = '/tmp /var/tmp "$PWD"'
    read_only = f"for at in {folders}; do mount --rbind $at $at && mount -o remount,bind,ro,nosuid,nodev $at; done"
    service = start_service(mounts=f"{READ_ONLY} && {read_only}")
    assert service.process.wait(60) == 1
    assert service.log.read_text() == (
        "Neither /dev/shm nor the temporary folder can be written to. Make one writable (docker: --tmpfs /tmp).\n"
    )


# A process whose metrics grow until the folder is full, and beyond.
_GROW = """
import logging, sys
from captioning.observe.metrics_folder import join_metrics_folder, make_metrics_folder
make_metrics_folder([sys.argv[1]])
join_metrics_folder()
from captioning.observe.metrics import Metrics
logging.basicConfig()
metrics = Metrics()
metrics.start()
for number in range(3_000):
    metrics.observe_request(route=f"/{number}", method="GET", status=200, code="none", api_key="none", seconds=1)
print(len(metrics.exposition().splitlines()))
"""


def test_a_folder_that_fills_up_ends_nobody(tmp_path: Path) -> None:
    command = [*remounted(f"mount -t tmpfs -o size=700k tmpfs {tmp_path}"), sys.executable, "-c", _GROW, str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 1_000
    assert run.stderr.count("is full") == 1
