"""Permits turn away at once; slots are handed out in order, and who cannot use what comes free is not woken."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from captioning.byte_budget import ByteBudget
from captioning.deadline import Deadline
from captioning.errors import DeadlineExceeded, Overloaded
from captioning.limits import Permits, Slots
from tests.conftest import wait_until

PATIENT = Deadline.after(3600)
LATE = Deadline.after(-1)
GONE = Deadline(math.inf, abandoned=lambda: True)


def test_permits_are_counted_and_come_back() -> None:
    permits = Permits(2)
    with permits.permit(lambda: 3.0), permits.permit(lambda: 3.0):
        assert permits.in_use == 2
        with pytest.raises(Overloaded) as refused, permits.permit(lambda: 3.0):
            pass
        assert refused.value.retry_after_s == 3.0
    assert permits.in_use == 0


def test_who_is_counted_is_never_refused_and_leaves_less_to_others() -> None:
    permits = Permits(2)
    with permits.counted(), permits.counted(), permits.counted():
        assert permits.in_use == 3
        with pytest.raises(Overloaded), permits.permit(lambda: 3.0):
            pass
    assert permits.in_use == 0


def test_slots_are_handed_out_in_order_of_arrival() -> None:
    slots = Slots(1)
    order: list[int] = []

    def take(number: int) -> None:
        with slots.slot(PATIENT):
            order.append(number)

    with ThreadPoolExecutor(8) as pool, slots.slot(PATIENT):
        for number in range(8):
            pool.submit(take, number)
            wait_until(lambda: slots.waiting == number + 1)  # noqa: B023
        assert (slots.in_use, order) == (1, [])
    assert (slots.in_use, slots.waiting, order) == (0, 0, list(range(8)))


def test_whoever_waits_too_long_for_a_slot_leaves_the_line() -> None:
    slots = Slots(1)
    with slots.slot(PATIENT):
        with pytest.raises(Overloaded) as refused, slots.slot(LATE):
            pass
        assert refused.value.retry_after_s is not None
        with pytest.raises(DeadlineExceeded, match="gone"), slots.slot(GONE):
            pass
    assert (slots.in_use, slots.waiting) == (0, 0)
    with slots.slot(PATIENT):
        pass


def test_a_hold_never_grows_beyond_the_largest() -> None:
    with ByteBudget(100, largest=50).hold() as hold, pytest.raises(ValueError, match="the largest is 50"):
        hold.try_grow(51)


@pytest.mark.parametrize("kind", ["slots", "bytes"])
def test_what_comes_free_wakes_those_only_who_can_use_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If all woke at each change, 50 waiting threads would keep the interpreter's lock from the model."""
    monkeypatch.setattr("captioning.deadline._POLL_S", 120.0)
    checks = 0

    def count() -> None:
        nonlocal checks
        checks += 1

    patient = Deadline(math.inf, interrupt=count)
    slots, budget = Slots(1), ByteBudget(100, largest=100)

    def take() -> None:
        if kind == "slots":
            with slots.slot(patient):
                pass
        else:
            with budget.hold() as hold:
                hold.grow(100, patient)

    waiters = 20
    with ThreadPoolExecutor(waiters) as pool, ExitStack() as held:
        held.enter_context(slots.slot(PATIENT))
        for _ in range(2):  # the second is in the reserve
            held.enter_context(budget.hold()).grow(100, PATIENT)
        done = [pool.submit(take) for _ in range(waiters)]
        wait_until(lambda: (slots if kind == "slots" else budget).waiting == waiters)
        held.close()
        for future in done:
            future.result(timeout=60)
    assert checks <= 4 * waiters
