"""One deadline for whatever waits, with the error of whoever set the sooner one."""

from __future__ import annotations

import math
import time
from functools import partial

import pytest

from captioning.deadline import UNLIMITED, Deadline
from captioning.errors import DeadlineExceeded, ImageFetchTimeout, ShuttingDown

TOO_SLOW = partial(ImageFetchTimeout, "The image took longer than it may.")


def test_the_sooner_deadline_counts_and_brings_its_own_error() -> None:
    passed = Deadline(time.monotonic() - 1)
    with pytest.raises(DeadlineExceeded):
        passed.within(60, TOO_SLOW).remaining()
    with pytest.raises(ImageFetchTimeout, match="longer than it may"):
        Deadline.after(60).within(0, TOO_SLOW).remaining()
    with pytest.raises(ImageFetchTimeout, match="longer than it may"):
        UNLIMITED.within(60, TOO_SLOW).within(0).remaining()


def test_a_caller_that_has_gone_ends_it_under_any_error() -> None:
    gone = Deadline(math.inf, abandoned=lambda: True).within(60, TOO_SLOW)
    for ask in (gone.check, gone.poll_s):
        with pytest.raises(DeadlineExceeded, match="gone"):
            ask()


def test_what_interrupts_it_is_raised_at_each_check_and_by_no_look_at_the_time() -> None:
    def interrupt() -> None:
        raise ShuttingDown

    interrupted = Deadline(math.inf, interrupt=interrupt).within(60, TOO_SLOW)
    for ask in (interrupted.check, interrupted.poll_s):
        with pytest.raises(ShuttingDown):
            ask()
    assert interrupted.remaining() > 0


def test_a_wait_is_cut_into_pieces() -> None:
    assert 0 < UNLIMITED.poll_s() < 1
    assert 0 < Deadline.after(0.1).poll_s() <= 0.1
