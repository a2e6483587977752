"""Run the real service inside a memory cgroup, let uploads come in bursts, and say what it took.

    make bench-memory    # with a full-size BLIP-base of random weights, made and exported first

    python -m benchmarks.memory --int8 build/blip-base-int8

Needs root and a memory cgroup (v1 or v2) that takes a child; says so where there is none. The page cache is dropped
before each start, because the kernel charges a file's page to the group that touches it first. Runs without a limit, in
512 MiB, and in 60 MiB less: a peak says little, since the page cache fills whatever there is, but a service that is as
fast in less has that much to spare. Bursts are 4 uploads at once of up to 12 megapixels in several formats.

With `--worst-case`, in 512 MiB: as many pictures at once as admission lets in, of 40 megapixels, or small to send and
dear to read, kind by kind. Fails if one of them ends the worker, or the service with it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import requests
from PIL import Image

from benchmarks.hostile_pictures import hostile_pictures
from benchmarks.pictures import encoded, picture
from benchmarks.server import ROOT, gunicorn
from benchmarks.worst_pictures import distinct, worst_pictures

MIB = 2**20
RENDER_MIB, TO_SPARE_MIB = 512, 60

# What the service is told on so small a machine, unless the environment says otherwise.
SMALL = {
    "BATCH_MAX_SIZE": "1",  # 10 MB of cross-attention keys and values a picture
    "DECODE_MEMORY_BYTES": "167772160",  # and 32 MiB of slack: a WebP of 12 megapixels takes 188 MiB of both
    "DECODE_PROCESSES": "1",
    "MAX_BODY_BYTES": "8388608",  # six of these are the bytes that bodies and downloads may take at once
    "MAX_IMAGE_BYTES": "8388608",
    "MAX_CONCURRENT_REQUESTS": "16",
}


class NoCgroup(Exception):
    """Say why no memory cgroup can be had."""


class Cgroup:
    """A cgroup of version 1 or 2 that limits memory, and CPU time where told, made for one run.

    Source: Linux, Documentation/admin-guide/cgroup-v1/memory.rst, cgroup-v2.rst and scheduler/sched-bwc.rst.
    """

    def __init__(self, limit_mib: int | None, cpus: float | None = None) -> None:
        root = Path("/sys/fs/cgroup")
        self._v2 = "memory" in _read(root / "cgroup.controllers").split()
        if not self._v2 and not (root / "memory/memory.limit_in_bytes").exists():
            raise NoCgroup("neither /sys/fs/cgroup/memory (v1) nor a memory controller in /sys/fs/cgroup (v2) is there")
        name = f"captioning-{os.getpid()}"
        self._folder = root / name if self._v2 else root / "memory" / name
        limits = {}
        if limit_mib:
            limits[self._folder / ("memory.max" if self._v2 else "memory.limit_in_bytes")] = str(limit_mib * MIB)
        if cpus and self._v2:
            limits[self._folder / "cpu.max"] = f"{cpus * 100_000:.0f} 100000"
        elif cpus:
            limits[root / "cpu" / name / "cpu.cfs_quota_us"] = f"{cpus * 100_000:.0f}"
        self._folders = {self._folder, *(file.parent for file in limits)}
        try:
            if self._v2:
                (root / "cgroup.subtree_control").write_text("+memory +cpu" if cpus else "+memory")
            for folder in self._folders:
                folder.mkdir()
            for file, limit in limits.items():
                file.write_text(limit)
        except OSError as error:
            raise NoCgroup(f"{error.filename}: {error.strerror} (root may be needed)") from error

    @property
    def box(self) -> list[str]:
        """Return what becomes the command behind it, inside the group."""
        enter = " && ".join(f"echo $$ > {folder}/cgroup.procs" for folder in self._folders)
        return ["/bin/sh", "-c", f'{enter} && exec "$0" "$@"']

    def figures(self) -> dict[str, float]:
        """Return what the kernel counted, in MiB, and how often it ran into the limit."""
        stat = dict(line.split() for line in _read(self._folder / "memory.stat").splitlines())
        if self._v2:
            peak = _read(self._folder / "memory.peak") or "nan"
            events = dict(line.split() for line in _read(self._folder / "memory.events").splitlines())
            kinds = {"anonymous": "anon", "mapped files": "file_mapped", "page cache": "file"}
            hits, kills = events["max"], events["oom_kill"]
        else:
            peak = _read(self._folder / "memory.max_usage_in_bytes")
            control = dict(line.split() for line in _read(self._folder / "memory.oom_control").splitlines())
            kinds = {"anonymous": "total_rss", "mapped files": "total_mapped_file", "page cache": "total_cache"}
            hits, kills = _read(self._folder / "memory.failcnt"), control.get("oom_kill", "0")
        sizes = {name: float(stat[key]) / MIB for name, key in kinds.items()}
        return {"peak": float(peak) / MIB, **sizes, "limit hits": float(hits), "killed": float(kills)}

    def remove(self) -> None:
        """Remove the group; its processes have ended."""
        for folder, _ in itertools.product(self._folders, range(50)):
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                time.sleep(0.1)


def own_settings(int8: Path) -> dict[str, str]:
    """Return what the service is told: the small machine's settings, but for those that the environment has."""
    small = {name: os.environ.get(name, value) for name, value in SMALL.items()}
    # Pictures come again and again here: the model shall caption them each time.
    return {**small, "CACHE_MAX_ENTRIES": "0", "ENGINE": "int8", "MODEL_ID": str(int8.resolve())}


def uploads() -> list[bytes]:
    """Make pictures of up to 12 megapixels, as cameras and programs write them."""
    large = picture(4000, 3000)
    small = large.resize((1600, 1200))
    kinds: list[tuple[Image.Image, str, dict[str, object]]] = [
        (large, "JPEG", {"quality": 90}),
        (large, "JPEG", {"quality": 90, "progressive": True}),
        (large.quantize(32), "PNG", {"compress_level": 1}),
        (large, "WEBP", {"quality": 80, "method": 0}),
        (small, "JPEG", {"quality": 90}),
        (small.convert("RGBA"), "PNG", {"compress_level": 1}),
    ]
    return [encoded(image, kind, **options) for image, kind, options in kinds]


def upload(url: str, picture: bytes) -> float:
    """Post a picture; return the seconds until its caption."""
    started = time.perf_counter()
    post(url, picture).raise_for_status()
    return time.perf_counter() - started


def run(limit_mib: int | None, int8: Path, pictures: list[bytes], bursts: int) -> dict[str, float]:
    """Start the service in a group with this limit, and let it work."""
    with grouped(limit_mib) as (cgroup, log):
        started = time.perf_counter()
        settings = {**own_settings(int8), "REQUEST_TIMEOUT_S": "300"}
        with gunicorn(settings=settings, box=cgroup.box, log=log) as server:
            url = server.url
            upload(url, pictures[4])
            figures = {"start to first caption, s": time.perf_counter() - started}
            figures["one at a time, s"] = median(upload(url, pictures[4]) for _ in range(9))
            with ThreadPoolExecutor(4) as pool:
                took: list[float] = []
                for number in range(bursts):
                    four = [pictures[(number + place) % len(pictures)] for place in range(4)]
                    took += pool.map(lambda picture: upload(url, picture), four)
            figures |= {"in bursts, s": median(took), "in bursts, worst, s": max(took)}
            figures["one at a time afterwards, s"] = median(upload(url, pictures[4]) for _ in range(9))
            return figures | cgroup.figures()


def run_worst_case(int8: Path) -> dict[str, dict[str, str]]:
    """Send the worst pictures within the small machine's memory, each kind as often as admission lets in."""
    results: dict[str, dict[str, str]] = {}
    with grouped(RENDER_MIB) as (cgroup, log):
        settings = own_settings(int8)
        at_once = int(settings["MAX_CONCURRENT_REQUESTS"])
        kinds = {**dict(worst_pictures()), **hostile_pictures(scale=7)}
        every = [content for _, content in zip(range(at_once), itertools.cycle(kinds.values()), strict=False)]
        with (
            gunicorn(settings=settings, box=cgroup.box, log=log) as server,
            ThreadPoolExecutor(at_once) as pool,
        ):
            worker = server.worker
            for name, contents in {**{n: [content] * at_once for n, content in kinds.items()}, "all": every}.items():
                started = time.perf_counter()
                sent = map(distinct, contents, itertools.count())
                answers = [pool.submit(post, server.url, content) for content in sent]
                anonymous = []
                while not all(answer.done() for answer in answers):
                    anonymous.append(cgroup.figures()["anonymous"])
                    time.sleep(0.05)
                took = time.perf_counter() - started
                counted = Counter(outcome(answer.result()) for answer in answers)
                results[f"{len(contents)} x {name}"] = {
                    "kB each": f"{median(map(len, contents)) / 1000:.0f}",
                    "answers": ", ".join(f"{count} {word}" for word, count in counted.most_common()),
                    "s, until the last": f"{took:.1f}",
                    "anonymous at most, MiB": f"{max(anonymous):.0f}",
                }
                print(f"{name}: {results[f'{len(contents)} x {name}']}", file=sys.stderr, flush=True)
                if server.worker != worker or cgroup.figures()["killed"]:
                    raise SystemExit(f"{name} ended the worker:\n{log.read_text()}")
    return results


@contextmanager
def grouped(limit_mib: int | None, cpus: float | None = None) -> Iterator[tuple[Cgroup, Path]]:
    """Make a group for a service that starts with no file cached; yield it and the file for the service's log."""
    log = ROOT / "build" / "memory.log"
    subprocess.run([shutil.which("sync") or "sync"], check=True)  # noqa: S603
    Path("/proc/sys/vm/drop_caches").write_text("3")
    cgroup = Cgroup(limit_mib, cpus)
    try:
        yield cgroup, log
    except requests.RequestException as error:
        counted = ", ".join(f"{name} {value:.0f}" for name, value in cgroup.figures().items())
        raise SystemExit(f"Within {limit_mib} MiB: {error} ({counted})\n{log.read_text()}") from error
    finally:
        cgroup.remove()


def post(url: str, content: bytes) -> requests.Response:
    """Post a picture; return whatever the answer is."""
    return requests.post(f"{url}/local-caption", data=content, headers={"Content-Type": "image/*"}, timeout=400)


def outcome(answer: requests.Response) -> str:
    """Word an answer: captioned, or the error's code."""
    return "captioned" if answer.ok else str(answer.json()["code"])


def table(results: dict[str, dict[str, float]]) -> str:
    """Word the figures as a Markdown table."""
    lines = ["| | " + " | ".join(results) + " |", "|---" * (len(results) + 1) + "|"]
    for name in next(iter(results.values())):
        unit = "" if name in ("limit hits", "killed") or name.endswith(", s") else ", MiB"
        digits = 2 if name.endswith(", s") else 0
        cells = [f"{figures[name]:.{digits}f}" for figures in results.values()]
        lines.append(f"| {name}{unit} | {' | '.join(cells)} |")
    return "\n".join(lines)


def worst_table(results: dict[str, dict[str, str]]) -> str:
    """Word what the worst pictures did as a Markdown table."""
    names = next(iter(results.values()))
    lines = ["| at once | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {kind} | {' | '.join(cells.values())} |" for kind, cells in results.items()]
    return "\n".join(lines)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--int8", type=Path, default=ROOT / "build" / "blip-base-int8", help="folder of the export")
    parser.add_argument("--bursts", type=int, default=12)
    parser.add_argument("--worst-case", action="store_true", help="send the worst pictures instead")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "memory.json")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.worst_case:
        print(worst_table(run_worst_case(args.int8)))
        return
    pictures = uploads()
    limits = {"no limit": None, f"{RENDER_MIB} MiB": RENDER_MIB}
    limits[f"{RENDER_MIB - TO_SPARE_MIB} MiB"] = RENDER_MIB - TO_SPARE_MIB
    try:
        results = {name: run(limit, args.int8, pictures, args.bursts) for name, limit in limits.items()}
    except NoCgroup as error:
        sys.exit(f"No memory cgroup can be made here: {error}.")
    except PermissionError as error:
        sys.exit(f"The page cache cannot be dropped here, so no figure would count: {error}.")
    print(table(results))
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\n{args.out}")


if __name__ == "__main__":
    main()
