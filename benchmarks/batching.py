"""Caption 1, 2, 4 and 8 pictures at a time with both engines: what a batch gains, and what it costs.

    python -m benchmarks.batching --model build/blip-base --int8 build/blip-base-int8

Sizes and engines take turns within each round, so that whatever else the machine does meets all of them; figures are
medians. Memory is how far the process's peak (VmHWM) rises above what it was before the call. Prints a table.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from statistics import median

import numpy as np
from tqdm import tqdm

from benchmarks.server import ROOT, forget_peak, memory
from captioning.cpus import available_cpus
from captioning.model.engine import Engine, GenerationOptions
from captioning.model.int8.engine import Int8Engine
from captioning.model.registry import engine_kind
from captioning.model.torch_engine import TorchEngine
from captioning.server.allocator import give_memory_back
from captioning.settings import Settings

SIZES = (1, 2, 4, 8)


def measure(engine: Engine, size: int, options: GenerationOptions) -> tuple[float, int]:
    """Return the seconds that one call takes, and the bytes that it takes meanwhile."""
    side = max(engine.preprocessor.size)
    pixels = np.random.default_rng(size).standard_normal((size, 3, side, side), np.float32)
    forget_peak(os.getpid())
    before = memory(os.getpid())["VmRSS"]
    started = time.perf_counter()
    engine.caption(pixels, options)
    return time.perf_counter() - started, memory(os.getpid())["VmHWM"] - before


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "build" / "blip-base", help="folder of the checkpoint")
    parser.add_argument("--int8", type=Path, default=ROOT / "build" / "blip-base-int8", help="folder of its export")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=10)
    args = parser.parse_args()
    give_memory_back(os.environ, block_bytes=engine_kind(Settings(engine="torch")).block_bytes)
    threads = available_cpus()
    engines: dict[str, Engine] = {
        "torch": TorchEngine(args.model, num_threads=threads),
        "int8": Int8Engine(args.int8, num_threads=threads),
    }
    options = GenerationOptions(max_new_tokens=args.tokens)
    for engine in engines.values():
        measure(engine, 2, options)  # what is set up lazily
    taken: dict[tuple[str, int], list[tuple[float, int]]] = {(name, size): [] for name in engines for size in SIZES}
    for _ in tqdm(range(args.rounds), unit="round"):
        for name, size in taken:
            taken[name, size].append(measure(engines[name], size, options))
    print(
        "| engine | pictures at a time | s a call | pictures/s | of one at a time | MiB above rest |\n"
        + "|---" * 6
        + "|"
    )
    for (name, size), measured in taken.items():
        seconds = median(took for took, _ in measured)
        single = median(took for took, _ in taken[name, 1])
        mib = median(grown for _, grown in measured) / 2**20
        print(f"| {name} | {size} | {seconds:.2f} | {size / seconds:.2f} | {size * single / seconds:.0%} | {mib:.0f} |")


if __name__ == "__main__":
    main()
