"""The arithmetic of benchmarks/capacity.py, against results that are known and against the simulation."""

from __future__ import annotations

import json
import random
from math import exp
from pathlib import Path
from statistics import fmean

import pytest

from benchmarks.capacity import (
    LATE_SHARE,
    at_random,
    drawn,
    in_turns,
    instances_for,
    late,
    late_share,
    mean_wait_s,
    plan,
    simulate,
)

MEASURED = json.loads(Path(__file__).with_name("service_times.json").read_text())["service_s"]
MEAN = fmean(MEASURED)
CHANCE = random.Random(3)
EXPONENTIAL = [CHANCE.expovariate(1) for _ in range(100_000)]


def test_waits_are_those_of_queues_whose_waits_are_known() -> None:
    assert mean_wait_s(0.5, [1.0]) == pytest.approx(0.5)  # M/D/1: busy / (2 (1 - busy))
    assert mean_wait_s(0.8, EXPONENTIAL) == pytest.approx(4.0, rel=0.05)  # M/M/1: busy / (1 - busy)
    assert mean_wait_s(1.0, [1.0]) == float("inf")


def test_the_share_that_is_late_is_that_of_a_queue_whose_share_is_known() -> None:
    """M/M/1: the time from arrival to caption is exponential, with the mean 1 / (1 - busy)."""
    assert late_share(0.8, EXPONENTIAL, 20.0) == pytest.approx(exp(-0.2 * 20.0), rel=0.2)
    assert late_share(1.1, EXPONENTIAL, 20.0) == 1.0


@pytest.mark.parametrize("busy", [0.5, 0.7, 0.9])
def test_with_measured_times_the_simulation_waits_as_long(busy: float) -> None:
    took = simulate(*drawn(4 * busy / MEAN, MEASURED, 200_000), 4, at_random)
    assert fmean(took) - MEAN == pytest.approx(mean_wait_s(busy / MEAN, MEASURED), rel=0.1)


@pytest.mark.parametrize("busy", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("deadline", [8, 20, 40])
def test_the_formula_promises_no_more_than_the_simulation_holds(busy: float, deadline: int) -> None:
    """Deadlines are in service times. In turns, fewer are late than at random, for which the formula is."""
    expected = late_share(busy / MEAN, MEASURED, deadline * MEAN)
    random_order = late(simulate(*drawn(4 * busy / MEAN, MEASURED, 200_000), 4, at_random), deadline * MEAN)
    turns = late(simulate(*drawn(4 * busy / MEAN, MEASURED, 200_000), 4, in_turns), deadline * MEAN)
    assert turns <= random_order <= 1.3 * expected + 0.001
    assert random_order >= expected / 3 - 0.001


def test_no_instance_more_than_needed() -> None:
    needed = instances_for(1000.0, MEASURED, 1.0)
    assert late(simulate(*drawn(1000.0, MEASURED, 500_000), needed, at_random), 1.0) <= 1.3 * LATE_SHARE
    fewer = int(0.95 * needed)
    assert late(simulate(*drawn(1000.0, MEASURED, 500_000), fewer, at_random), 1.0) > LATE_SHARE


def test_a_plan_multiplies_out() -> None:
    found = plan(864_000, peak_to_mean=3, deadline_s=1000, service_s=[0.1], memory_mb=512, price_per_month=365 / 12)
    assert found.peak_per_s == pytest.approx(30)
    assert found.instances == 4  # three would be busy all the time
    assert found.busy == pytest.approx(0.75)
    assert found.memory_mb == 2048
    assert found.cost_per_million == pytest.approx(4 / 0.864)
    assert found.cost_per_million_scaled == pytest.approx(2 / 0.864)


def test_a_deadline_that_nobody_can_keep_is_refused() -> None:
    with pytest.raises(ValueError, match="even where nobody waits"):
        instances_for(1.0, [2.0], 1.5)
