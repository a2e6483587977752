"""How many instances a load needs, what they take and what they cost; beside it a simulation of the same load.

    python -m benchmarks.capacity --pictures-per-day 1e6 1e8 --peak-to-mean 3 --deadline-s 10 --service-s 0.8
    python -m benchmarks.capacity --pictures-per-day 1e6 --measured build/replicas.json    # of benchmarks.replicas

Each instance is a queue with one server, its model, and gets its share of the pictures at random moments: M/G/1. The
mean wait is Pollaczek and Khinchine's. The wait's tail is taken as exponential, which is exact for exponential service
times and close near saturation (Kingman, "On queues in heavy traffic", 1962). Where a balancer takes turns, or asks the
least busy instance, waits are shorter; with `BATCH_MAX_SIZE` above 1, busy instances are faster.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from math import ceil, exp, inf
from pathlib import Path
from statistics import fmean

SECONDS_PER_DAY = 86_400
DAYS_PER_MONTH = 365 / 12
LATE_SHARE = 0.01
SIMULATED = 50
_COLUMNS = (
    *("pictures a day", "peak, 1/s", "instances", "busy", "mean wait, s", "memory, GB"),
    *("cost of a million", "if scaled", "late: at random", "in turns"),
)


@dataclass(frozen=True)
class Plan:
    """The instances that a load needs; ``busy`` is the share of the peak's time for which each of them works."""

    peak_per_s: float
    instances: int
    busy: float
    mean_wait_s: float
    memory_mb: float
    cost_per_million: float
    cost_per_million_scaled: float


def mean_wait_s(per_second: float, service_s: Sequence[float]) -> float:
    """Return how long a picture waits on average in an instance that gets ``per_second`` of them.

    ``service_s`` are seconds for which the instance was busy with one picture each. Source: Pollaczek and Khinchine,
    as in Kleinrock, Queueing Systems, volume 1, 1975, section 5.7.
    """
    busy = per_second * fmean(service_s)
    return per_second * fmean(seconds**2 for seconds in service_s) / (2 * (1 - busy)) if busy < 1 else inf


def late_share(per_second: float, service_s: Sequence[float], deadline_s: float) -> float:
    """Return the share of an instance's pictures that are not captioned ``deadline_s`` after they came."""
    busy = per_second * fmean(service_s)
    if busy >= 1:
        return 1.0
    fading = busy / mean_wait_s(per_second, service_s)
    return fmean(busy * exp(-fading * (deadline_s - seconds)) if seconds < deadline_s else 1.0 for seconds in service_s)


def instances_for(per_second: float, service_s: Sequence[float], deadline_s: float) -> int:
    """Return the least number of instances which caption all but a hundredth of the pictures in time.

    Raises:
        ValueError: an idle instance could not.
    """
    if late(service_s, deadline_s) >= LATE_SHARE:
        raise ValueError(f"A caption takes longer than {deadline_s} s even where nobody waits.")
    few = max(1, ceil(per_second * fmean(service_s)))
    return next(n for n in count(few) if late_share(per_second / n, service_s, deadline_s) <= LATE_SHARE)


def plan(
    pictures_per_day: float,
    *,
    peak_to_mean: float,
    deadline_s: float,
    service_s: Sequence[float],
    memory_mb: float,
    price_per_month: float,
) -> Plan:
    """Return what a load needs; memory and price are an instance's. The second cost has as many as each hour needs."""
    mean_per_s = pictures_per_day / SECONDS_PER_DAY
    peak_per_s = mean_per_s * peak_to_mean
    instances = instances_for(peak_per_s, service_s, deadline_s)
    per_million = price_per_month / DAYS_PER_MONTH / pictures_per_day * 1e6
    return Plan(
        peak_per_s=peak_per_s,
        instances=instances,
        busy=peak_per_s * fmean(service_s) / instances,
        mean_wait_s=mean_wait_s(peak_per_s / instances, service_s),
        memory_mb=instances * memory_mb,
        cost_per_million=instances * per_million,
        cost_per_million_scaled=instances_for(mean_per_s, service_s, deadline_s) * per_million,
    )


def at_random(number: int, instances: int, chance: random.Random) -> int:
    """Send a picture to any instance."""
    return chance.randrange(instances)


def in_turns(number: int, instances: int, chance: random.Random) -> int:
    """Send a picture to the instance after the last one's, as nginx does unless told otherwise."""
    return number % instances


def simulate(
    moments: Iterable[float],
    service_s: Iterable[float],
    instances: int,
    route: Callable[[int, int, random.Random], int] = in_turns,
) -> list[float]:
    """Return the seconds from each picture's arrival to its caption, by moments of arrival and seconds of service."""
    chance = random.Random(1)
    free_at = [0.0] * instances
    took = []
    for number, (moment, service) in enumerate(zip(moments, service_s, strict=False)):
        chosen = route(number, instances, chance)
        free_at[chosen] = max(moment, free_at[chosen]) + service
        took.append(free_at[chosen] - moment)
    return took


def drawn(per_second: float, service_s: Sequence[float], pictures: int) -> tuple[Iterator[float], Iterator[float]]:
    """Return moments of pictures that come at random (Poisson), and service times drawn from ``service_s``."""
    chance = random.Random(2)
    between = (chance.expovariate(per_second) for _ in range(pictures))
    return accumulate(between), (chance.choice(service_s) for _ in count())


def late(seconds: Sequence[float], deadline_s: float) -> float:
    """Return the share that took longer than the deadline."""
    return sum(taken > deadline_s for taken in seconds) / len(seconds)


def positive(text: str) -> float:
    """Read a number above 0.

    Raises:
        ValueError: it is none.
    """
    number = float(text)
    if not 0 < number < inf:
        raise ValueError
    return number


def main() -> None:
    """Print a table of plans, each beside what a simulation says of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures-per-day", type=positive, nargs="+", required=True)
    parser.add_argument(
        "--peak-to-mean", type=positive, default=3, help="pictures a second at the peak, over the day's mean"
    )
    parser.add_argument("--deadline-s", type=positive, default=10, help="from a picture's bytes to its caption")
    times = parser.add_mutually_exclusive_group(required=True)
    times.add_argument("--service-s", type=positive, help="seconds a caption of a busy instance, always the same")
    times.add_argument("--measured", type=Path, help="a file of benchmarks.replicas, whose service times are taken")
    parser.add_argument("--memory-mb", type=positive, default=512, help="of an instance")
    parser.add_argument(
        "--price-per-month", type=float, default=1, help="of an instance; the costs are in its currency"
    )
    args = parser.parse_args()
    service_s = [args.service_s] if args.measured is None else json.loads(args.measured.read_text())["service_s"]
    print("| " + " | ".join(_COLUMNS) + " |\n" + "|---" * len(_COLUMNS) + "|")
    for pictures_per_day in args.pictures_per_day:
        try:
            found = plan(
                pictures_per_day,
                peak_to_mean=args.peak_to_mean,
                deadline_s=args.deadline_s,
                service_s=service_s,
                memory_mb=args.memory_mb,
                price_per_month=args.price_per_month,
            )
        except ValueError as error:
            parser.error(str(error))
        some = min(found.instances, SIMULATED)  # with their share of the pictures
        per_second = found.peak_per_s / found.instances * some
        simulated = [
            late(simulate(*drawn(per_second, service_s, 500_000), some, route), args.deadline_s)
            for route in (at_random, in_turns)
        ]
        print(
            f"| {pictures_per_day:,.0f} | {found.peak_per_s:,.1f} | {found.instances:,} | {found.busy:.0%} "
            f"| {found.mean_wait_s:.2f} | {found.memory_mb / 1000:,.1f} | {found.cost_per_million:,.2f} "
            f"| {found.cost_per_million_scaled:,.2f} | {simulated[0]:.2%} | {simulated[1]:.2%} |"
        )


if __name__ == "__main__":
    main()
