"""Measure what decoding takes, through a real decoder process: for DECODE_MEMORY_BYTES and the limit of processor time.

    python -m benchmarks.decoders

For each picture, the most address space that a fresh process grew by (VmPeak in /proc/PID/status, which is what its
limit counts), and how much longer it took than decoding in this process, as the median of pairs. Linux only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing
from statistics import median

import numpy as np
from PIL import Image

from benchmarks.pictures import encoded
from benchmarks.server import decoder_processes, memory
from benchmarks.worst_pictures import worst_pictures
from captioning.deadline import Deadline
from captioning.model.preprocessor import Preprocessor
from captioning.pictures.decoder import open_image
from captioning.pictures.decoders import Decoders
from captioning.settings import MIB

PREPROCESS = Preprocessor.from_config({})
PAIRS = 30


def ordinary_pictures() -> Iterator[tuple[str, bytes]]:
    """Yield names and pictures as cameras, phones and programs write them."""
    small = np.random.default_rng(1).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    large = Image.fromarray(small).resize((4000, 3000))
    medium = large.resize((1600, 1200))
    yield "JPEG, 2 megapixels", encoded(medium, "JPEG", quality=90)
    yield "PNG, 2 megapixels", encoded(medium, "PNG", compress_level=1)
    yield "JPEG, 12 megapixels", encoded(large, "JPEG", quality=90)
    yield "JPEG, 12 megapixels, progressive", encoded(large, "JPEG", quality=90, progressive=True)
    yield "WebP, 12 megapixels", encoded(large, "WEBP", method=0)
    yield "AVIF, 12 megapixels", encoded(large, "AVIF", speed=9)


def largest(key: str) -> int:
    """Return the largest figure of this process' children, in bytes."""
    return max(memory(pid)[key] for pid in decoder_processes(os.getpid()))


def in_this_process(data: bytes) -> float:
    """Return the seconds that decoding takes here."""
    started = time.perf_counter()
    PREPROCESS(open_image(data, target_size=384).decode())
    return time.perf_counter() - started


def through(decoders: Decoders, data: bytes) -> float:
    """Return the seconds until the picture is back."""
    started = time.perf_counter()
    decoders.decode(data, PREPROCESS, Deadline.after(60))
    return time.perf_counter() - started


def measure(data: bytes, pairs: int) -> tuple[int, float, float]:
    """Return the bytes that a picture takes, the seconds here, and how many more through a process."""
    decoders = Decoders(processes=1, memory_bytes=2048 * MIB, max_pixels=40_000_000)
    with closing(decoders):
        for _ in range(2):  # both processes
            through(decoders, encoded(Image.new("RGB", (8, 8)), "PNG"))
        before = largest("VmPeak")
        through(decoders, data)
        taken = largest("VmPeak") - before
        there_and_here = [(through(decoders, data), in_this_process(data)) for _ in range(pairs)]
    return taken, median(here for _, here in there_and_here), median(there - here for there, here in there_and_here)


def main() -> None:
    """Print the tables."""
    print("| picture | kB | address space, MB | ms here | ms more through a process |\n|---|---|---|---|---|")
    for pairs, pictures in ((PAIRS, ordinary_pictures()), (1, worst_pictures())):
        for name, data in pictures:
            taken, here, more = measure(data, pairs)
            figures = f"{len(data) / 1000:.0f} | {taken / 1e6:.0f} | {1000 * here:.1f} | {1000 * more:.1f}"
            print(f"| {name} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
