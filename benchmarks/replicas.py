"""Run replicas of the service, and hold their times against the model and the simulation of benchmarks.capacity.

    python -m benchmarks.replicas --model models/blip-emoji
    python -m benchmarks.replicas --model build/blip-base-int8 --engine int8 --replicas 1 --busy    # its speed alone

Each replica is a gunicorn with one thread for its model and no batches, and gets uploads in turns. First all are kept
busy: the intervals between a replica's captions are its service times. Then pictures come at random moments (Poisson),
so many that the replicas are busy for about each of the given shares of the time. The simulation replays the moments,
and the times in the model that the answers tell, because the machine may have other work; the formula gets their mean.
The generator shares its CPUs with the replicas. Writes build/replicas.json, for benchmarks.capacity.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import time
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count, cycle, pairwise
from pathlib import Path
from statistics import fmean, median

from benchmarks.capacity import mean_wait_s, simulate
from benchmarks.http_client import Answer, Client
from benchmarks.load import arrivals, at_moments, percentile
from benchmarks.pictures import numbered, photo
from benchmarks.server import ROOT, Server, cpu_s, decoder_processes, gunicorn

SETTINGS = {"BATCH_MAX_SIZE": "1", "CACHE_MAX_ENTRIES": "0", "LOG_LEVEL": "WARNING", "NUM_THREADS": "1"}


class Uploads:
    """Uploads to one replica, each of other bytes."""

    def __init__(self, port: int) -> None:
        self._client = Client(port)
        self._picture = photo(1000, 750, 1)
        self._numbers = count(port * 1_000_000)

    async def caption(self) -> Answer:
        """Have one more picture captioned."""
        body = numbered(self._picture, next(self._numbers))
        return await self._client.post("/local-caption", "image/jpeg", body)

    async def keep_busy(self, seconds: float) -> list[float]:
        """Keep two pictures under way; return the seconds from one caption to the next.

        Raises:
            SystemExit: one was refused.
        """
        end = time.monotonic() + seconds
        moments: list[float] = []

        async def one_after_another() -> None:
            while time.monotonic() < end:
                answer = await self.caption()
                if answer.status != 200:
                    raise SystemExit(answer.body.decode())
                moments.append(time.monotonic())

        await asyncio.gather(one_after_another(), one_after_another())
        return [later - earlier for earlier, later in pairwise(moments)]


async def keep_busy(replicas: list[Uploads], seconds: float) -> list[float]:
    """Keep all replicas busy at once; return the seconds from one caption of a replica to its next."""
    between = await asyncio.gather(*(replica.keep_busy(seconds) for replica in replicas))
    return [seconds for replica in between for seconds in replica]


@dataclass(frozen=True)
class Offered:
    """What became of pictures that came at random moments: seconds from each one's moment, and within the service."""

    moments: list[float]
    took: list[float]
    in_model: list[float]
    beside: float  # what half of them took at most, neither waiting for the model nor in it


async def offer(replicas: list[Uploads], per_second: float, seconds: float) -> Offered:
    """Offer pictures at random moments, to the replicas in turns.

    Raises:
        SystemExit: one was refused.
    """
    moments = list(arrivals(per_second, seconds, random.Random(1)))
    answers: dict[int, Answer] = {}
    turns = zip(count(), cycle(replicas))

    async def ask() -> Answer:
        number, replica = next(turns)
        answers[number] = await replica.caption()
        return answers[number]

    outcomes = await at_moments(time.monotonic() + 0.1, moments, ask)
    if any(outcome.status != 200 for outcome in outcomes):
        raise SystemExit("Pictures were refused: offer less.")
    took = [outcome.seconds for outcome in outcomes]
    timings = [stages(answers[number]) for number in range(len(took))]
    beside = median(seconds - stage["queue"] - stage["generate"] for seconds, stage in zip(took, timings, strict=True))
    return Offered(moments, took, [stage["generate"] for stage in timings], beside)


def stages(answer: Answer) -> dict[str, float]:
    """Return the seconds of each stage, as the answer's Server-Timing tells them in milliseconds."""
    return {name: float(ms) / 1000 for name, ms in re.findall(r"(\w+);dur=([\d.]+)", answer.headers["server-timing"])}


def processor_s(servers: list[Server]) -> float:
    """Return the processor time that the workers and their decoder processes have taken so far."""
    processes = [pid for server in servers for pid in (server.worker, *decoder_processes(server.worker))]
    return sum(cpu_s(process) for process in processes)


async def measure(servers: list[Server], shares: list[float], seconds: float) -> list[float]:
    """Print a row for each share of the time for which the replicas shall be busy; return the first service times."""
    replicas = [Uploads(server.port) for server in servers]
    await keep_busy(replicas, 3)  # warm
    before = processor_s(servers)
    service_s = await keep_busy(replicas, seconds)
    processor = (processor_s(servers) - before) / (len(service_s) + len(servers))
    low, high = percentile(service_s, 25), percentile(service_s, 75)
    print(f"{1 / fmean(service_s):.2f} captions a second and replica, half of them {low:.3f} to {high:.3f} s apart.")
    print(f"Each took {processor:.3f} s of processor time: {1 / processor:.2f} a second for each core.\n", flush=True)
    if shares:
        print("| busy | offered/s | mean, s | simulated | formula | p95, s | simulated | p99, s | simulated |")
        print("|---" * 9 + "|")
    for share in shares:
        per_second = share * len(replicas) / fmean(await keep_busy(replicas, seconds / 4))
        found = await offer(replicas, per_second, seconds)
        simulated = [took + found.beside for took in simulate(found.moments, found.in_model, len(replicas))]
        each_per_s = len(found.moments) / seconds / len(replicas)
        formula = mean_wait_s(each_per_s, found.in_model) + fmean(found.in_model) + found.beside
        print(
            f"| {each_per_s * fmean(found.in_model):.0%} | {len(found.moments) / seconds:.1f} "
            f"| {fmean(found.took):.3f} | {fmean(simulated):.3f} | {formula:.3f} "
            f"| {percentile(found.took, 95):.3f} | {percentile(simulated, 95):.3f} "
            f"| {percentile(found.took, 99):.3f} | {percentile(simulated, 99):.3f} |",
            flush=True,
        )
    return service_s


def main() -> None:
    """Start the replicas, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the checkpoint, or of its export")
    parser.add_argument("--engine", default="torch")
    parser.add_argument("--tokens", type=int, default=20, help="the longest caption")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--busy", type=float, nargs="*", default=[0.5, 0.7, 0.85], help="shares of the time")
    parser.add_argument("--seconds", type=float, default=30, help="for each share")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "replicas.json")
    args = parser.parse_args()
    settings = {"MODEL_ID": args.model, "ENGINE": args.engine, "MAX_NEW_TOKENS": str(args.tokens), **SETTINGS}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as running:
        logs = [args.out.with_suffix(f".{number}.log") for number in range(args.replicas)]
        servers = [running.enter_context(gunicorn(settings=settings, log=log)) for log in logs]
        service_s = asyncio.run(measure(servers, args.busy, args.seconds))
    args.out.write_text(json.dumps({"engine": args.engine, "model": args.model, "service_s": service_s}) + "\n")


if __name__ == "__main__":
    main()
