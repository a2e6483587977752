"""Measure the memory that the service takes with a model, from the real server.

    python benchmarks/worker_memory.py build/blip-base [MORE FOLDERS]

For each model: start gunicorn, wait until it is ready, caption ten uploads of 12 megapixels one by one and four at
once, and print what the kernel says of the worker (VmHWM, RssAnon and RssFile in /proc/PID/status) and the master.
RssFile counts mapped files, which the kernel can drop and read again; RssAnon cannot be dropped.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import requests
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PORT = 8765
URL = f"http://127.0.0.1:{PORT}"


def status(pid: int) -> dict[str, int]:
    """Return the kernel's figures for a process, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    figures = (line.split() for line in lines if line.startswith(("VmHWM", "VmRSS", "RssAnon", "RssFile")))
    return {name.rstrip(":"): int(kilobytes) * 1024 // 1_000_000 for name, kilobytes, _ in figures}


def worker_of(master: int) -> int:
    """Return the one worker's process id."""
    return int(Path(f"/proc/{master}/task/{master}/children").read_text().split()[0])


def large_picture() -> bytes:
    """Draw 12 megapixels that JPEG cannot make small, as a camera's are."""
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((4000, 3000)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def caption(picture: bytes) -> None:
    """Caption one upload."""
    requests.post(
        f"{URL}/local-caption", data=picture, headers={"Content-Type": "image/jpeg"}, timeout=120
    ).raise_for_status()


def measure(model: str, picture: bytes) -> None:
    """Print a line of figures after each step of a server's life."""
    settings = {"PORT": str(PORT), "MODEL_ID": model, "REQUEST_TIMEOUT_S": "120", "CACHE_MAX_ENTRIES": "0"}
    environment = {**os.environ, **settings}
    server = subprocess.Popen([sys.executable, "-m", "gunicorn", "wsgi:app"], cwd=ROOT, env=environment)
    try:
        while True:
            time.sleep(0.5)
            try:
                if requests.get(f"{URL}/readyz", timeout=5).ok:
                    break
            except requests.ConnectionError:
                assert server.poll() is None
        worker = worker_of(server.pid)
        print(f"\n{model}\n  master               {status(server.pid)}")
        print(f"  worker, ready        {status(worker)}")
        for _ in range(10):
            caption(picture)
        print(f"  after 10 captions    {status(worker)}")
        with ThreadPoolExecutor(4) as callers:
            # Bytes after its end make another picture of it: the same one would be captioned once for all four.
            list(callers.map(caption, [picture + bytes([number]) for number in range(4)]))
        print(f"  after 4 at once      {status(worker)}", flush=True)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        measure(folder, large_picture())
