"""The bulk job, on real clusters: every row of the input comes out once, whatever is killed on the way."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import EMOJI_MODEL, SAMPLES
from tests.distributed.conftest import PATIENCE_S, PYTHON, Cluster, read_table, wait_until

CAPTIONS = json.loads((EMOJI_MODEL / "samples" / "captions.json").read_text())
PART_ROWS = 10
AT_ONCE = 3  # distributed.part_captioner.AT_ONCE, which cannot be imported without Ray
ACTOR = "PartCaptioner"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(start_cluster: Callable[..., Cluster]) -> Cluster:
    return start_cluster(cpus=1)


class GatedPictures:
    """An image server whose pictures from number ``gate`` on are held back until it is opened; 404 for every tenth."""

    def __init__(self, url: str, gate: int) -> None:
        self.url = url
        self.gate = gate
        self.opened = threading.Event()
        self.asked: Counter[int] = Counter()

    def write_table(self, path: Path, count: int) -> Path:
        rows = [{"id": number, "image": f"{self.url}/{number}.jpg"} for number in range(count)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path


@contextmanager
def gated_pictures(gate: int) -> Iterator[GatedPictures]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            number = int(self.path.removeprefix("/").removesuffix(".jpg"))
            pictures.asked[number] += 1
            if number >= gate:
                pictures.opened.wait()
            body = SAMPLES[number % len(SAMPLES)].read_bytes()
            try:
                self.send_response(404 if number % 10 == 9 else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                pass  # the one who asked was killed

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        pictures = GatedPictures(f"http://127.0.0.1:{server.server_port}", gate)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield pictures
        finally:
            pictures.opened.set()
            server.shutdown()


FETCHING = {"FETCH_ALLOW_PRIVATE_ADDRESSES": "true", "FETCH_ALLOWED_PORTS": "*", "FETCH_TIMEOUT_S": "300"}


def job(source: Path, target: Path, *options: str) -> list[str]:
    return ["-m", "distributed.bulk", str(source), str(target), f"--part-rows={PART_ROWS}", *options]


def parts(target: Path) -> dict[str, int]:
    """Return the parts that are there, with what tells one file from another of the same name."""
    return {path.name: path.stat().st_ino for path in target.glob("part-*")}


def assert_complete(target: Path, count: int) -> None:
    rows = sorted(read_table(target), key=lambda row: row["id"])
    assert [row["id"] for row in rows] == list(range(count))
    for row in rows:
        number = row["id"]
        if number % 10 == 9:
            assert (row["caption"], row["code"]) == (None, "image_not_found")
            assert row["error"]
        else:
            sample = SAMPLES[number % len(SAMPLES)].name
            assert (row["caption"], row["code"], row["error"]) == (CAPTIONS[sample], None, None)
        assert (row["model"], row["revision"], row["engine"]) == (str(EMOJI_MODEL), None, "torch")


def start_and_hold(cluster: Cluster, pictures: GatedPictures, table: Path, target: Path) -> subprocess.Popen[bytes]:
    """Start a job and wait until it has written all parts before the gate, and asks for what lies behind it."""
    process = cluster.start(*job(table, target), **FETCHING)

    def held() -> bool:
        assert process.poll() is None, cluster.log.read_text()
        return len(parts(target)) == pictures.gate // PART_ROWS and max(pictures.asked) >= pictures.gate

    wait_until(held)
    return process


def finish(process: subprocess.Popen[bytes], cluster: Cluster) -> None:
    assert process.wait(timeout=PATIENCE_S) == 1, cluster.log.read_text()  # some pictures failed, as they must


def test_a_killed_job_goes_on_where_it_stopped(cluster: Cluster, tmp_path: Path) -> None:
    count = 120
    with gated_pictures(gate=60) as pictures:
        table, target = pictures.write_table(tmp_path / "in.jsonl", count), tmp_path / "out"
        process = start_and_hold(cluster, pictures, table, target)
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = parts(target)
        wait_until(lambda: not cluster.processes(ACTOR))
        pictures.opened.set()

        again = cluster.run(*job(table, target), **FETCHING)
        assert again.returncode == 2
        assert "--resume" in again.stderr
        resumed = cluster.run(*job(table, target, "--resume"), **FETCHING)

    assert resumed.returncode == 1, resumed.stderr
    assert_complete(target, count)
    assert before.items() <= parts(target).items()
    assert all(pictures.asked[number] == 1 for number in range(pictures.gate))
    assert sum(asked > 1 for asked in pictures.asked.values()) <= AT_ONCE * PART_ROWS


def test_an_actor_that_is_killed_costs_only_what_it_had(cluster: Cluster, tmp_path: Path) -> None:
    count = 120
    with gated_pictures(gate=60) as pictures:
        table, target = pictures.write_table(tmp_path / "in.jsonl", count), tmp_path / "out"
        process = start_and_hold(cluster, pictures, table, target)
        before = parts(target)
        (actor,) = cluster.processes(ACTOR)
        os.kill(actor, signal.SIGKILL)
        pictures.opened.set()
        finish(process, cluster)

    assert_complete(target, count)
    assert before.items() <= parts(target).items()
    assert all(pictures.asked[number] == 1 for number in range(pictures.gate))
    assert sum(asked > 1 for asked in pictures.asked.values()) <= AT_ONCE * PART_ROWS


def test_a_machine_that_dies_costs_only_what_it_had(cluster: Cluster, tmp_path: Path) -> None:
    count = 160
    machine = cluster.add(cpus=1)
    with gated_pictures(gate=60) as pictures:
        table, target = pictures.write_table(tmp_path / "in.jsonl", count), tmp_path / "out"
        process = start_and_hold(cluster, pictures, table, target)
        wait_until(lambda: len(machine.processes(ACTOR)) == 1)
        before = parts(target)
        machine.kill()
        cluster.nodes.remove(machine)
        pictures.opened.set()
        finish(process, cluster)

    assert_complete(target, count)
    assert before.items() <= parts(target).items()
    assert sum(asked > 1 for asked in pictures.asked.values()) <= 2 * AT_ONCE * PART_ROWS


def test_a_cluster_that_is_too_small_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    table = tmp_path / "in.csv"
    table.write_text(f"image\n{SAMPLES[0]}\n")
    finished = cluster.run(*job(table, tmp_path / "out", "--actors=40"))
    assert finished.returncode == 2
    assert "The cluster is too small: 40 actors of 1 CPUs each are wanted" in finished.stderr


def test_a_broken_model_ends_the_job_with_a_sentence(cluster: Cluster, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for path in EMOJI_MODEL.glob("*.json"):
        (model / path.name).write_bytes(path.read_bytes())
    (model / "model.safetensors").write_bytes(b"no weights")
    finished = cluster.run(*job(write_csv(tmp_path), tmp_path / "out"), MODEL_ID=str(model))
    assert finished.returncode == 3
    last = finished.stderr.splitlines()[-1]
    assert last.startswith(f"The job stopped: The model {model} cannot be loaded: its weights are broken")


def test_the_output_of_another_job_is_left_alone(cluster: Cluster, tmp_path: Path) -> None:
    table, target = write_csv(tmp_path), tmp_path / "out"
    assert cluster.run(*job(table, target)).returncode == 0
    before = parts(target)
    with table.open("a") as file:
        file.write(f"more,{SAMPLES[0]}\n")
    for changed, environment in (("input", {}), ("options", {"NUM_BEAMS": "2"})):
        finished = cluster.run(*job(table, target, "--resume"), **environment)
        assert finished.returncode == 2
        assert "The output is another job's" in finished.stderr
        assert changed in finished.stderr
    assert parts(target) == before


def write_csv(folder: Path) -> Path:
    with (folder / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["note", "image"], *([path.stem, path] for path in SAMPLES)])
    return folder / "in.csv"


def write_parquet_of_bytes(folder: Path) -> Path:
    script = (
        "import sys, pathlib, pyarrow as pa, pyarrow.parquet as pq; paths = [pathlib.Path(p) for p in sys.argv[2:]];"
        "pq.write_table(pa.table({'note': [p.stem for p in paths], 'image': [p.read_bytes() for p in paths]}),"
        "sys.argv[1])"
    )
    subprocess.run([PYTHON, "-c", script, folder / "in.parquet", *SAMPLES], check=True)
    return folder / "in.parquet"


def write_folder(folder: Path) -> Path:
    (folder / "in").mkdir()
    for path in SAMPLES:
        (folder / "in" / path.name).write_bytes(path.read_bytes())
    return folder / "in"


@pytest.mark.parametrize("write", [write_csv, write_parquet_of_bytes, write_folder])
def test_tables_and_folders_of_pictures_are_captioned(
    cluster: Cluster, tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    target = tmp_path / "out"
    finished = cluster.run(*job(write(tmp_path), target))
    assert finished.returncode == 0, finished.stderr
    rows: list[dict[str, Any]] = read_table(target)
    assert [row["caption"] for row in rows] == [CAPTIONS[path.name] for path in SAMPLES]
    assert [row.get("note") or Path(row["path"]).stem for row in rows] == [path.stem for path in SAMPLES]
