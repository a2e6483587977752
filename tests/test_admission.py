"""Admission turns away at once; memory is shared out in order and never deadlocks."""

from __future__ import annotations

import threading
import time

import pytest

from captioning.deadline import Deadline
from captioning.errors import DeadlineExceeded, Overloaded
from captioning.limits import Admission, MemoryBudget


def test_permits_are_counted_and_come_back() -> None:
    admission = Admission(2)
    with admission.permit(lambda: 3.0), admission.permit(lambda: 3.0):
        with pytest.raises(Overloaded) as refused, admission.permit(lambda: 3.0):
            pass
        assert refused.value.retry_after_s == 3.0
    with admission.permit(lambda: 3.0), admission.permit(lambda: 3.0):
        pass


def test_memory_is_waited_for_until_it_comes_free() -> None:
    budget = MemoryBudget(100)
    got = threading.Event()

    def wait_for_memory() -> None:
        with budget.hold(Deadline.after(10)) as later:
            later.grow(60)
            got.set()

    with budget.hold(Deadline.after(10)) as first:
        first.grow(60)
        thread = threading.Thread(target=wait_for_memory)
        thread.start()
        assert not got.wait(0.1)
    assert got.wait(5)
    thread.join()


def test_waiting_for_memory_ends_at_the_deadline() -> None:
    budget = MemoryBudget(100)
    with budget.hold(Deadline.after(10)) as first:
        first.grow(100)
        with pytest.raises(DeadlineExceeded), budget.hold(Deadline.after(0.05)) as second:
            second.grow(1)
    with budget.hold(Deadline.after(1)) as third:
        third.grow(100)


def test_a_large_request_is_not_overtaken_for_ever_by_small_ones() -> None:
    budget = MemoryBudget(100)
    order: list[str] = []

    def take(name: str, size: int) -> None:
        with budget.hold(Deadline.after(10)) as hold:
            hold.grow(size)
            order.append(name)

    with budget.hold(Deadline.after(10)) as first:
        first.grow(50)
        large = threading.Thread(target=take, args=("large", 100))
        large.start()
        time.sleep(0.1)
        small = threading.Thread(target=take, args=("small", 10))
        small.start()
        time.sleep(0.1)
        assert order == []
    large.join()
    small.join()
    assert order == ["large", "small"]


def test_half_done_downloads_that_fill_the_budget_do_not_wait_for_each_other() -> None:
    """Ten downloads of twenty pieces each share room for thirty pieces: some give up, the others finish."""
    budget = MemoryBudget(30)
    done: list[str] = []

    def download() -> None:
        try:
            with budget.hold(Deadline.after(20)) as hold:
                for _ in range(20):
                    hold.grow(1)
                    time.sleep(0.001)
                done.append("finished")
        except Overloaded:
            done.append("overloaded")

    threads = [threading.Thread(target=download) for _ in range(10)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 10
    assert "finished" in done
    assert time.monotonic() - started < 10
    with budget.hold(Deadline.after(1)) as everything:
        everything.grow(30)
