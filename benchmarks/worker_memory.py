"""Measure the memory that the service takes with a model, from the real server.

    python -m benchmarks.worker_memory build/blip-base [MORE FOLDERS]

For each model: start gunicorn, wait until it is ready, caption ten uploads of 12 megapixels one by one and four at
once, and print what the kernel says of the worker (VmHWM, RssAnon and RssFile in /proc/PID/status) and the master.
RssFile counts mapped files, which the kernel can drop and read again; RssAnon cannot be dropped.
"""

from __future__ import annotations

import io
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import requests
from PIL import Image

from benchmarks.server import gunicorn, memory


def status(pid: int) -> dict[str, int]:
    """Return the kernel's figures for a process, in MB."""
    return {name: size // 1_000_000 for name, size in memory(pid).items()}


def large_picture() -> bytes:
    """Draw 12 megapixels that JPEG cannot make small, as a camera's are."""
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((4000, 3000)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def caption(url: str, picture: bytes) -> None:
    """Caption one upload."""
    answer = requests.post(f"{url}/local-caption", data=picture, headers={"Content-Type": "image/jpeg"}, timeout=120)
    answer.raise_for_status()


def measure(model: str, picture: bytes) -> None:
    """Print a line of figures after each step of a server's life."""
    settings = {"MODEL_ID": model, "REQUEST_TIMEOUT_S": "120", "CACHE_MAX_ENTRIES": "0"}
    with gunicorn(settings=settings) as server:
        print(f"\n{model}\n  master               {status(server.process.pid)}")
        print(f"  worker, ready        {status(server.worker)}")
        for _ in range(10):
            caption(server.url, picture)
        print(f"  after 10 captions    {status(server.worker)}")
        with ThreadPoolExecutor(4) as callers:
            # Bytes after its end make another picture of it: the same one would be captioned once for all four.
            list(callers.map(partial(caption, server.url), [picture + bytes([number]) for number in range(4)]))
        print(f"  after 4 at once      {status(server.worker)}", flush=True)


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        measure(folder, large_picture())
