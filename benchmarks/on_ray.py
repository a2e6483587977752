"""What Ray costs and gives: memory of its processes, and pictures a second of 1 and 2 actors and replicas.

    make install install-ray
    .venv/bin/python -m benchmarks.on_ray --pictures 2000

One real cluster on this machine, with models/blip-emoji. A tenth of the pictures are missing files, as in real lists.
Starting a job takes longer than a small job; so the rate of each is taken from the time beyond that of one picture.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.conftest import EMOJI_MODEL, ROOT, SAMPLES
from tests.distributed.conftest import Cluster, RayService, command_line, descendants, read_table


def pss_mib(pids: list[int]) -> float:
    """Return the memory of processes in MiB; of what they share with others, their share."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def timed(command: list[str], **environment: str) -> float:
    """Return the seconds that a command takes; some pictures fail, so it ends with 1."""
    began = time.monotonic()
    finished = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)  # noqa: S603
    if finished.returncode not in (0, 1):
        sys.exit(finished.stderr)
    return time.monotonic() - began


def picture(number: int) -> bytes:
    """Return a sample whose bytes no other number has: equal ones would be captioned once."""
    return SAMPLES[number % len(SAMPLES)].read_bytes() + str(number).encode()


def write_sources(folder: Path, count: int) -> tuple[Path, Path]:
    """Write ``count`` pictures' paths as a list for the command and as a table for the job."""
    listed, table = folder / f"{count}.txt", folder / f"{count}.jsonl"
    paths = [folder / f"{count}-{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        if number % 10 != 9:
            path.write_bytes(picture(number))
    listed.write_text("".join(f"{path}\n" for path in paths))
    table.write_text(
        "".join(json.dumps({"id": number, "image": str(path)}) + "\n" for number, path in enumerate(paths))
    )
    return listed, table


def measure_jobs(cluster: Cluster, folder: Path, count: int) -> None:
    """Print pictures a second of the command and of the job."""
    sources = {size: write_sources(folder, size) for size in (1, count)}
    ways = {"smartscan-caption, 1 thread": 0, "caption-dataset, 1 actor": 1, "caption-dataset, 2 actors": 2}
    for way, actors in ways.items():
        seconds = {}
        for size, (listed, table) in sources.items():
            target = folder / f"out-{actors}-{size}"
            if actors:
                job = ["-m", "distributed.bulk", str(table), str(target), f"--actors={actors}", "--part-rows=64"]
                seconds[size] = timed([str(ROOT / ".venv-ray/bin/python"), *job], **cluster.environment)
            else:
                command = ["-m", "captioning.cli.main", "--from-list", str(listed), "--jsonl", "--output", str(target)]
                script = f"import sys; from captioning.cli.main import main; sys.argv[1:] = {command[2:]!r}; main()"
                seconds[size] = timed([sys.executable, "-c", script], MODEL_ID=str(EMOJI_MODEL), NUM_THREADS="1")
        rate = (count - 1) / (seconds[count] - seconds[1])
        print(f"{way}: {rate:.1f} pictures/s; {seconds[1]:.0f} s for the first one", flush=True)
    rows = read_table(folder / f"out-2-{count}")
    assert sorted(row["id"] for row in rows) == list(range(count))
    print(f"rows of the last: {len(rows)}, with an error: {sum(row['code'] is not None for row in rows)}", flush=True)


def captions_per_s(service: RayService, seconds: float) -> float:
    """Return the captions a second that 16 callers get who ask one after the other."""
    end = time.monotonic() + seconds
    counts: list[int] = []
    numbers = itertools.count()

    def ask() -> None:
        count = 0
        while time.monotonic() < end:
            count += service.upload(picture(next(numbers))).status_code == 200
        counts.append(count)

    callers = [threading.Thread(target=ask) for _ in range(16)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return sum(counts) / seconds


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=15, help="of load, for each number of replicas")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} CPUs; load of the last minute {os.getloadavg()[0]:.1f}", flush=True)
    cluster = Cluster(cpus=2)
    try:
        time.sleep(20)  # until all of its processes are there
        head = cluster.processes("")
        print(f"idle head: {pss_mib(head):.0f} MiB in {len(head)} processes", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            measure_jobs(cluster, Path(folder), arguments.pictures)
        settings = {"CACHE_MAX_ENTRIES": "0", "NUM_BEAMS": "5", "BATCH_MAX_SIZE": "1"}
        service = RayService(cluster, arguments={"max_replicas": 1}, **settings).wait_until_ready()
        for replicas in (1, 2):
            service.deploy({"min_replicas": replicas, "max_replicas": replicas})
            while len(cluster.running()) != replicas:
                time.sleep(0.5)
            rate = captions_per_s(service, arguments.seconds)
            pids = cluster.running()
            each = [f"{pss_mib(descendants(pid)):.0f}" for pid in pids]
            serve = [
                pid
                for pid in cluster.processes("ray::")
                if "Proxy" in command_line(pid) or "Serve" in command_line(pid)
            ]
            beside = pss_mib([pid for pid in serve if pid not in pids])
            print(
                f"{replicas} replicas: {rate:.1f} captions/s of 5 beams; MiB of each, its decoders included: "
                f"{', '.join(each)}; of Serve's controller and proxy: {beside:.0f}",
                flush=True,
            )
    finally:
        cluster.stop()


if __name__ == "__main__":
    main()
