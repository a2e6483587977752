"""Offer the service, and the plain one of naive_service.py, up to four times what they can do.

    make bench-load    # with a full-size BLIP-base of random weights, made and exported first

    python -m benchmarks.load --quick    # the embedded model, a minute in all

Open loop: requests leave at moments that were drawn beforehand (Poisson), whether or not earlier ones were answered,
and each one's time counts from its moment, so that waiting is never left out. They are what a gateway sends: JSON with
the URL of a picture, over kept-alive connections; each URL leads to other bytes. What is not answered after
`REQUEST_TIMEOUT_S` and two seconds is given up. The best rate is found first, with a fixed number of requests always
under way, and then 0.5 to 4 times of it are offered. Health is asked for every 100 ms meanwhile, in the same way.

The generator and the pictures' server share the machine's CPUs with the service: the last column is what they take.
Writes build/load.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

from benchmarks.http_client import Answer, Client, serve_bytes
from benchmarks.pictures import numbered, photo
from benchmarks.server import ROOT, Server, forget_peak, gunicorn, memory
from captioning.settings import Settings

HEALTH_INTERVAL_S = 0.1
GIVE_UP_S = Settings.model_fields["request_timeout_s"].default + 2

# The cache would answer what is asked twice; nothing is, but it shall not even be looked up.
OWN_SETTINGS = {
    "FETCH_ALLOW_PRIVATE_ADDRESSES": "true",
    "FETCH_ALLOWED_PORTS": "*",
    "CACHE_MAX_ENTRIES": "0",
    "LOG_LEVEL": "WARNING",
}


@dataclass(frozen=True)
class Contestant:
    """Hold how one service is started, and how many requests keep it busy while its best rate is measured."""

    settings: dict[str, str]
    app: str = "wsgi:app"
    health: str = "/healthz"
    ready: str = "/readyz"
    busy_with: int = 8


@dataclass(frozen=True)
class Outcome:
    """Hold what became of one request: its answer's status, 0 for none, and seconds from its moment."""

    due: float
    seconds: float
    status: int
    retry_after_s: int | None = None


@dataclass(frozen=True)
class Figures:
    """Hold what was measured at one offered rate; times in seconds, from the moment a request was due."""

    offered_per_s: float
    completed_per_s: float
    refused_share: float
    error_share: float
    statuses: dict[int, int]
    p50: float
    p95: float
    p99: float
    health_p50: float
    health_p99: float
    retry_after_s: tuple[int, int] | None
    peak_bytes: int
    generator_cpu_share: float


class Generator:
    """Send caption requests to one server; every picture has other bytes."""

    def __init__(self, server: Server, contestant: Contestant) -> None:
        self._server = server
        self._contestant = contestant
        self._captions = Client(server.port)
        self._health = Client(server.port)
        self._photos = [photo(1000, 750, seed) for seed in range(16)]
        self._sent = 0
        self._images: asyncio.Server | None = None

    async def start(self) -> None:
        """Serve the pictures."""
        self._images = await serve_bytes(self._photo_at)

    async def stop(self) -> None:
        """Close all connections."""
        self._captions.close()
        self._health.close()
        if self._images is not None:
            self._images.close()

    def _photo_at(self, path: str) -> bytes:
        number = int(path.strip("/").removesuffix(".jpg"))
        return numbered(self._photos[number % len(self._photos)], number)

    async def caption(self) -> Answer:
        """Ask for the caption of one more picture."""
        assert self._images is not None
        self._sent += 1
        port = self._images.sockets[0].getsockname()[1]
        body = json.dumps({"imageUrl": f"http://127.0.0.1:{port}/{self._sent}.jpg"}).encode()
        return await self._captions.post("/local-caption", "application/json", body)

    async def closed_loop(self, seconds: float) -> float:
        """Keep a fixed number of requests under way; return the captions per second, the first quarter left out."""
        start = time.monotonic()
        done: list[float] = []

        async def ask_again_and_again() -> None:
            while time.monotonic() < start + seconds:
                answer = await self.caption()
                if answer.status == 200:
                    done.append(time.monotonic())
                else:
                    await asyncio.sleep(float(answer.headers.get("retry-after", "1")))

        await asyncio.gather(*(ask_again_and_again() for _ in range(self._contestant.busy_with)))
        return rate(done, start + seconds / 4, start + seconds)

    async def open_loop(self, offered_per_s: float, seconds: float) -> Figures:
        """Offer requests at random moments; completions are counted after the first quarter, when queues are full."""
        forget_peak(self._server.worker)
        cpu, wall = time.process_time(), time.monotonic()
        start = wall + 0.1
        moments = list(arrivals(offered_per_s, seconds, random.Random(1)))
        probes = [number * HEALTH_INTERVAL_S for number in range(int(seconds / HEALTH_INTERVAL_S))]
        captions, health = await asyncio.gather(
            at_moments(start, moments, self.caption),
            at_moments(start, probes, lambda: self._health.get(self._contestant.health)),
        )
        cpu_share = (time.process_time() - cpu) / (time.monotonic() - wall)
        counted_from, counted_to = start + seconds / 4, start + seconds
        counted = [outcome for outcome in captions if outcome.due >= counted_from]
        statuses = Counter(outcome.status for outcome in counted)
        accepted = [outcome.seconds for outcome in counted if outcome.status == 200]
        answered = [outcome.due + outcome.seconds for outcome in captions if outcome.status == 200]
        refused = [outcome.retry_after_s for outcome in counted if outcome.status == 429]
        hints = [hint for hint in refused if hint is not None]
        # A probe that was given up took at least as long as it was waited for.
        probed = [outcome.seconds for outcome in health if outcome.due >= counted_from]
        return Figures(
            offered_per_s=offered_per_s,
            completed_per_s=rate(answered, counted_from, counted_to),
            refused_share=statuses[429] / len(counted),
            error_share=1 - (statuses[200] + statuses[429]) / len(counted),
            statuses=dict(statuses),
            p50=percentile(accepted, 50),
            p95=percentile(accepted, 95),
            p99=percentile(accepted, 99),
            health_p50=percentile(probed, 50),
            health_p99=percentile(probed, 99),
            retry_after_s=(min(hints), max(hints)) if hints and len(hints) == len(refused) else None,
            peak_bytes=memory(self._server.worker)["VmHWM"],
            generator_cpu_share=cpu_share,
        )


async def at_moments(start: float, moments: list[float], ask: Callable[[], Awaitable[Answer]]) -> list[Outcome]:
    """Ask at each moment, in seconds after ``start``, and wait for all answers."""

    async def one(due: float) -> Outcome:
        status, hint = 0, None
        with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            async with asyncio.timeout(due + GIVE_UP_S - time.monotonic()):
                answer = await ask()
            status, hint = answer.status, answer.headers.get("retry-after")
        return Outcome(due, time.monotonic() - due, status, None if hint is None else int(hint))

    tasks = []
    for moment in moments:
        await asyncio.sleep(start + moment - time.monotonic())
        tasks.append(asyncio.create_task(one(start + moment)))
    return list(await asyncio.gather(*tasks))


def arrivals(per_second: float, seconds: float, chance: random.Random) -> Iterator[float]:
    """Yield the moments of a Poisson process, from 0 to ``seconds``."""
    moment = chance.expovariate(per_second)
    while moment < seconds:
        yield moment
        moment += chance.expovariate(per_second)


def rate(moments: list[float], start: float, end: float) -> float:
    """Return how many of the moments there are a second, from the first after ``start`` to the first after ``end``.

    Captions come in batches: between two moments at which one came, no batch is counted by half.
    """
    later = sorted(moment for moment in moments if moment >= start)
    if not later or later[0] >= end:
        return 0.0
    last = next((moment for moment in later if moment >= end), end)
    return sum(moment < last for moment in later) / (last - later[0])


def percentile(values: list[float], percent: int) -> float:
    """Return a percentile, NaN of nothing."""
    if len(values) < 2:
        return values[0] if values else float("nan")
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def contestants(model: Path, int8: Path | None) -> dict[str, Contestant]:
    """Return the services that can be measured, by name; ``int8`` is the folder of the model's export."""
    found = {
        "naive": Contestant(
            {"MODEL_ID": str(model.resolve())}, "benchmarks.naive_service:app", "/health", "/health", busy_with=2
        ),
        "torch": Contestant({**OWN_SETTINGS, "ENGINE": "torch", "MODEL_ID": str(model.resolve())}),
    }
    if int8 is not None:
        found["int8"] = Contestant({**OWN_SETTINGS, "ENGINE": "int8", "MODEL_ID": str(int8.resolve())})
    return found


@contextmanager
def generating(contestant: Contestant) -> Iterator[tuple[asyncio.Runner, Generator]]:
    """Run the service and a generator for it."""
    log = ROOT / "build" / "load.log"
    log.parent.mkdir(exist_ok=True)
    served = gunicorn(
        contestant.app,
        settings=contestant.settings,
        ready=contestant.ready,
        # The plain service has gunicorn's own defaults; the configuration in this folder is not for it.
        arguments=() if contestant.app == "wsgi:app" else ("--config", "/dev/null"),
        log=log,
    )
    with served as server, asyncio.Runner() as runner:
        generator = Generator(server, contestant)
        runner.run(generator.start())
        try:
            yield runner, generator
        finally:
            runner.run(generator.stop())


def measure(name: str, contestant: Contestant, multiples: list[float], seconds: float) -> dict[str, Any]:
    """Return the best rate of one service and the figures at each multiple of it."""
    with generating(contestant) as (runner, generator):
        runner.run(generator.closed_loop(min(seconds, 10)))  # warm
        best = runner.run(generator.closed_loop(seconds))
        print(f"{name}: {best:.2f} captions a second", file=sys.stderr, flush=True)
        figures = {}
        for multiple in multiples:
            figures[multiple] = runner.run(generator.open_loop(multiple * best, seconds))
            print(f"{name}, {multiple} times: {figures[multiple]}", file=sys.stderr, flush=True)
        after = runner.run(generator.closed_loop(seconds))
        print(f"{name}: {after:.2f} captions a second, after all", file=sys.stderr, flush=True)
    return {
        "best_per_s": best,
        "best_afterwards_per_s": after,
        "at": {str(multiple): asdict(figure) for multiple, figure in figures.items()},
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """Word the figures as a Markdown table."""
    lines = [
        "| service | offered, times its best | offered/s | completed/s | of its best | 429 | other errors "
        "| p50, s | p95, s | p99, s | health p99, ms | peak, MiB | generator's CPU |",
        "|---" * 13 + "|",
    ]
    for name, result in results.items():
        for multiple, at in result["at"].items():
            cells = [
                name,
                multiple,
                f"{at['offered_per_s']:.2f}",
                f"{at['completed_per_s']:.2f}",
                f"{at['completed_per_s'] / result['best_per_s']:.0%}",
                f"{at['refused_share']:.0%}",
                f"{at['error_share']:.0%}",
                *(f"{at[key]:.2f}" for key in ("p50", "p95", "p99")),
                f"{1000 * at['health_p99']:.0f}",
                f"{at['peak_bytes'] / 2**20:.0f}",
                f"{at['generator_cpu_share']:.0%}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "build" / "blip-base", help="folder of the checkpoint")
    parser.add_argument("--int8", type=Path, default=ROOT / "build" / "blip-base-int8", help="folder of its export")
    parser.add_argument("--quick", action="store_true", help="the embedded model, without the int8 engine")
    parser.add_argument("--only", help="names of services, separated by commas: naive, torch, int8")
    parser.add_argument("--multiples", default="0.5,0.9,1,2,4", help="of the best rate, to offer")
    parser.add_argument("--seconds", type=float, help="for each rate (default 80, quick 6)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "load.json")
    args = parser.parse_args()
    seconds = args.seconds or (6 if args.quick else 80)
    known = contestants(ROOT / "models" / "blip-emoji", None) if args.quick else contestants(args.model, args.int8)
    names = args.only.split(",") if args.only else list(known)
    multiples = [float(multiple) for multiple in args.multiples.split(",")]
    results = {name: measure(name, known[name], multiples, seconds) for name in names}
    print(table(results))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"seconds": seconds, "services": results}, indent=1) + "\n")
    print(f"\n{args.out}")


if __name__ == "__main__":
    main()
