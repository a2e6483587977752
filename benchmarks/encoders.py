"""Encode pictures two at a time, each with one thread, and one after the other with two threads: which is faster?

    python -m benchmarks.encoders --int8 build/blip-base-int8

Both take turns within each round. Over 1, two at a time are faster. Memory is what the two sessions add of their
own.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from onnxruntime import InferenceSession

from benchmarks.server import ROOT
from captioning.model.engine import Pixels
from captioning.model.int8.sessions import open_sessions

SIZES = (2, 4)


def anonymous() -> float:
    """Return how much memory of its own this process has, in MiB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024


def encode(session: InferenceSession, pictures: Pixels) -> None:
    """Encode ``[B, 3, H, W]``, one after the other."""
    for picture in pictures:
        session.run(None, {"pixel_values": picture[None]})


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds that it takes, and the seconds of processor time."""
    started, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--int8", type=Path, default=ROOT / "build" / "blip-base-int8", help="folder of an export")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    both, _ = open_sessions(args.int8, 2)
    shape = both.get_inputs()[0].shape[1:]
    pictures = np.random.default_rng(1).standard_normal((max(SIZES), *shape), np.float32)
    encode(both, pictures)  # what is set up lazily
    before = anonymous()
    singles = [open_sessions(args.int8, 1)[0] for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:

        def side_by_side(size: int) -> None:
            list(pool.map(encode, singles, (pictures[0:size:2], pictures[1:size:2])))

        side_by_side(2)
        print(f"The two sessions of one thread have {anonymous() - before:.0f} MiB of their own.\n")
        print(
            "| pictures | two threads: s | processor s | two at a time: s | processor s | ratio | of processor time |"
        )
        print("|---" * 7 + "|")
        for size in SIZES:
            ways = (partial(encode, both, pictures[:size]), partial(side_by_side, size))
            rounds = [timed(ways[0]) + timed(ways[1]) for _ in range(args.rounds)]
            middle = " | ".join(f"{median(column):.3f}" for column in zip(*rounds, strict=True))
            ratios = [median(one[part] / one[part + 2] for one in rounds) for part in (0, 1)]
            print(f"| {size} | {middle} | {ratios[0]:.2f} | {ratios[1]:.2f} |")


if __name__ == "__main__":
    main()
