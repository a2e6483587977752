"""The moment by which something must be done, and whether anybody still waits for it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from captioning.errors import CaptioningError, DeadlineExceeded, Overloaded

# How soon a caller that has gone is noticed by what waits for something else.
_POLL_S = 0.5


def still_in_line(since: float) -> Overloaded:
    """Make the 429 of a request that has waited since ``since``, monotonic; Retry-After is how long it has waited."""
    return Overloaded(detail="its time was over in the line", retry_after_s=time.monotonic() - since)


@dataclass(frozen=True)
class Deadline:
    """A moment on the monotonic clock, in seconds; ``error`` makes what is raised once it has come.

    ``abandoned`` tells whether the caller has gone, and ``interrupt`` raises what else ends the work before its time.
    """

    at: float
    abandoned: Callable[[], bool] = lambda: False
    error: Callable[[], CaptioningError] = DeadlineExceeded
    interrupt: Callable[[], None] = lambda: None

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Make the deadline that many seconds from now."""
        return cls(time.monotonic() + seconds)

    def within(self, seconds: float, error: Callable[[], CaptioningError] | None = None) -> Deadline:
        """Return this one, or if it is sooner, that many seconds from now, with an ``error`` of its own."""
        at = time.monotonic() + seconds
        return self if self.at <= at else replace(self, at=at, error=error or self.error)

    def in_line(self) -> Deadline:
        """Return this deadline for a wait in line that begins now: when it passes, `Overloaded` is raised."""
        return replace(self, error=partial(still_in_line, time.monotonic()))

    def remaining(self) -> float:
        """Return the seconds left, always more than none.

        Raises:
            CaptioningError: none are left; it is what ``error`` makes, `DeadlineExceeded` if nothing else was said.
        """
        left = self.at - time.monotonic()
        if left <= 0:
            raise self.error()
        return left

    def check(self) -> None:
        """Do nothing while an answer is of use; to be asked before each piece of work.

        Raises:
            CaptioningError: no time is left, the caller has gone, or the work is interrupted.
        """
        self.remaining()
        self.interrupt()
        if self.abandoned():
            raise DeadlineExceeded(detail="the client has gone")

    def poll_s(self) -> float:
        """Check, and return for how many seconds to wait at most before the next check.

        Raises:
            CaptioningError: as `check` does.
        """
        self.check()
        return min(self.remaining(), _POLL_S)


UNLIMITED = Deadline(math.inf)
"""The deadline of a caller that has none."""
