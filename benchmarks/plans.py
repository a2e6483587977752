"""Measure BLIP-base on the memory and CPU time of each plan, in a cgroup, and print the README's table of plans.

    make bench-plans    # with a full-size BLIP-base of random weights, made and exported first

    python -m benchmarks.plans --model build/blip-base --int8 build/blip-base-int8 --only starter

Needs root, like benchmarks/memory.py. Captions have 10 tokens. The page cache is dropped before each start. Overload is
four times as many requests as the plan can do, for half a minute. Every figure is the least of all rounds, in which the
plans take turns: others on the machine can only add to it.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.memory import SMALL, grouped, post, upload
from benchmarks.server import ROOT, gunicorn
from benchmarks.steady_load import PICTURE, Load, counted

OVERLOAD_S = 30
ALONE, TOGETHER = 5, 4


@dataclass(frozen=True)
class Plan:
    """Hold what a plan has, and what the service is told there."""

    memory_mib: int
    cpus: float
    engine: str
    settings: dict[str, str]


# Render's, 2026 (https://render.com/pricing).
PLANS = {
    "starter": Plan(512, 0.5, "int8", SMALL),
    "standard": Plan(2048, 1, "torch", {"DECODE_PROCESSES": "1"}),
    "standard, int8": Plan(2048, 1, "int8", {}),
    "pro": Plan(4096, 2, "int8", {}),
}


def measure(plan: Plan, model: Path) -> dict[str, float]:
    """Return how many seconds it takes to be ready, to caption one picture and four, and what an overload does."""
    settings = {
        **plan.settings,
        "ENGINE": plan.engine,
        "MODEL_ID": str(model.resolve()),
        "MAX_NEW_TOKENS": "10",
        "CACHE_MAX_ENTRIES": "0",
    }
    with grouped(plan.memory_mib, plan.cpus) as (cgroup, log):
        started = time.perf_counter()
        with gunicorn(settings=settings, box=cgroup.box, log=log) as server:
            ready = time.perf_counter() - started
            alone = min(upload(server.url, PICTURE + bytes([number])) for number in range(ALONE))
            with ThreadPoolExecutor(TOGETHER) as callers:
                started = time.perf_counter()
                four = callers.map(lambda number: post(server.url, PICTURE + bytes([ALONE + number])), range(TOGETHER))
                for answer in four:
                    answer.raise_for_status()
                together = time.perf_counter() - started
            started = time.perf_counter()
            with Load(server.url, TOGETHER / alone) as load:
                time.sleep(OVERLOAD_S)
            overloaded = time.perf_counter() - started
        codes = counted(load.outcomes)
        if killed := cgroup.figures()["killed"]:
            raise SystemExit(f"The kernel killed {killed:.0f}: {codes}")
    return {
        "start to ready, s": ready,
        "a caption, s": alone,
        "four at once, s": together,
        "overload: s a caption": overloaded / codes["200"],
        "overload: slowest, s": max(outcome.seconds for outcome in load.outcomes if outcome.code == "200"),
        "overload: neither captioned nor 429": codes.total() - codes["200"] - codes["overloaded"],
    }


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "build" / "blip-base", help="folder of the checkpoint")
    parser.add_argument("--int8", type=Path, default=ROOT / "build" / "blip-base-int8", help="folder of its export")
    parser.add_argument("--only", choices=PLANS, action="append")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    models = {"torch": arguments.model, "int8": arguments.int8}
    plans = {name: PLANS[name] for name in arguments.only or PLANS}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in plans}
    for _ in range(arguments.rounds):
        for name, plan in plans.items():
            rounds[name].append(measure(plan, models[plan.engine]))
            print(f"{name}: {rounds[name][-1]}", file=sys.stderr, flush=True)
    processor = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    names = list(next(iter(rounds.values()))[0])
    print(f"{processor.partition(': ')[2]}, the least of {arguments.rounds} rounds:\n")
    print(f"| plan | memory | CPUs | engine | {' | '.join(names)} |\n{'|---' * (4 + len(names))}|")
    for name, plan in plans.items():
        least = [min(figures[kind] for figures in rounds[name]) for kind in names]
        cells = [name.partition(",")[0], f"{plan.memory_mib} MiB", f"{plan.cpus}", plan.engine]
        print(f"| {' | '.join([*cells, *(f'{value:.3g}' for value in least)])} |")


if __name__ == "__main__":
    main()
