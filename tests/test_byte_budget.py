"""Bytes are handed out in order, and no half-done work can lock them up."""

from __future__ import annotations

import math
import random
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from captioning.byte_budget import ByteBudget
from captioning.deadline import Deadline
from captioning.errors import DeadlineExceeded, Overloaded
from tests.conftest import wait_until

PATIENT = Deadline.after(3600)
LATE = Deadline.after(-1)
GONE = Deadline(math.inf, abandoned=lambda: True)


def test_bytes_are_waited_for_until_they_come_free() -> None:
    budget = ByteBudget(100, largest=60)

    def take() -> int:
        with budget.hold() as hold:
            hold.grow(60, PATIENT)
            return hold.size

    with ThreadPoolExecutor(3) as pool, ExitStack() as held:
        held.enter_context(budget.hold()).grow(60, PATIENT)
        held.enter_context(budget.hold()).grow(60, PATIENT)  # the reserve is there for one
        waiting = pool.submit(take)
        wait_until(lambda: budget.waiting == 1)
        assert budget.in_use == 120
        held.close()
        assert waiting.result(60) == 60
    assert (budget.in_use, budget.waiting) == (0, 0)


def test_waiting_for_bytes_ends_at_the_deadline() -> None:
    budget = ByteBudget(100, largest=100)
    with budget.hold() as first, budget.hold() as second:
        first.grow(100, PATIENT)
        second.grow(100, PATIENT)
        with pytest.raises(Overloaded) as refused, budget.hold() as third:
            third.grow(1, LATE)
        assert refused.value.retry_after_s is not None
        with pytest.raises(DeadlineExceeded, match="gone"), budget.hold() as third:
            third.grow(1, GONE)
        assert budget.waiting == 0
    assert budget.in_use == 0


def test_who_fits_does_not_wait_behind_one_that_needs_the_reserve_and_does_not_keep_it_from_that() -> None:
    budget = ByteBudget(100, largest=100)
    with ExitStack() as held:
        first, second, large, small, other = (held.enter_context(budget.hold()) for _ in range(5))
        assert first.try_grow(80)
        assert second.try_grow(80)
        assert not large.try_grow(100)
        assert small.try_grow(10)
        second.release()
        assert other.try_grow(10)
        assert large.try_grow(100)
        assert (budget.in_use, budget.waiting) == (200, 0)


def test_half_done_holds_that_fill_the_budget_all_finish() -> None:
    """Ten of twenty pieces each share room for thirty: whoever is first in line finishes in the reserve."""
    budget = ByteBudget(30, largest=20)
    together = threading.Barrier(10)
    most = 0

    def download() -> int:
        nonlocal most
        with budget.hold() as hold:
            hold.grow(3, PATIENT)
            together.wait(60)
            for _ in range(17):
                hold.grow(1, PATIENT)
                most = max(most, budget.in_use)
            return hold.size

    with ThreadPoolExecutor(10) as pool:
        assert [done.result(60) for done in [pool.submit(download) for _ in range(10)]] == [20] * 10
    assert 30 < most <= 50
    assert (budget.in_use, budget.waiting) == (0, 0)


def test_bytes_that_are_asked_for_without_waiting_keep_their_place_in_line() -> None:
    budget = ByteBudget(10, largest=10)
    first, second, third, fourth = (budget.hold() for _ in range(4))
    with first as one, second as two, third as three, fourth as four:
        assert one.try_grow(10)
        assert two.try_grow(10)
        assert not three.try_grow(5)
        assert not four.try_grow(1)
        one.release()
        assert not four.try_grow(1)  # the third comes first
        assert three.try_grow(5)
        assert four.try_grow(1)
        three.shrink(1)
        assert four.try_grow(8)


def test_what_is_left_of_a_hold_in_the_reserve_makes_room_for_the_next() -> None:
    """A bulk request keeps its URLs for long; the reserve is for whoever reads a body now."""
    budget = ByteBudget(100, largest=100)
    with budget.hold() as first, budget.hold() as bulk, budget.hold() as third:
        first.grow(60, PATIENT)
        bulk.grow(90, PATIENT)
        assert not third.try_grow(90)
        bulk.shrink(30)
        assert third.try_grow(90)
        assert budget.in_use == 180


def test_small_holds_wait_behind_nobody() -> None:
    budget = ByteBudget(100, largest=100, free=16)
    with budget.hold() as first, budget.hold() as second, budget.hold() as third, budget.hold() as small:
        first.grow(100, PATIENT)
        second.grow(100, PATIENT)
        assert not third.try_grow(50)
        small.grow(16, LATE)
        assert small.try_grow(1)
        assert (budget.in_use, budget.waiting) == (84 + 84 + 1, 1)


def test_whatever_is_taken_given_back_and_given_up_the_count_is_right() -> None:
    rng = random.Random(7)
    budget = ByteBudget(100, largest=60)

    def work(seed: int) -> None:
        own = random.Random(seed)
        for _ in range(40):
            with budget.hold() as hold:
                try:
                    while hold.size < 60 and own.random() < 0.9:
                        hold.grow(min(own.randrange(1, 20), 60 - hold.size), Deadline.after(own.choice([-1, 30, 30])))
                        assert budget.in_use <= 160
                        if own.random() < 0.2:
                            hold.shrink(own.randrange(hold.size + 1))
                except Overloaded:
                    pass

    with ThreadPoolExecutor(8) as pool:
        workers: list[Future[None]] = [pool.submit(work, rng.randrange(10**6)) for _ in range(8)]
        for worker in workers:
            worker.result(60)
    assert (budget.in_use, budget.waiting) == (0, 0)
