"""The moment by which a request must be answered, and whether anybody still waits for the answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from captioning.errors import DeadlineExceeded


@dataclass(frozen=True)
class Deadline:
    """Hold a moment on the monotonic clock, in seconds; ``abandoned`` tells whether the caller has gone."""

    at: float
    abandoned: Callable[[], bool] = lambda: False

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Make the deadline that many seconds from now."""
        return cls(time.monotonic() + seconds)

    def within(self, seconds: float) -> Deadline:
        """Return the same, but no later than that many seconds from now."""
        return replace(self, at=min(self.at, time.monotonic() + seconds))

    def remaining(self) -> float:
        """Return the seconds left.

        Raises:
            DeadlineExceeded: none are left.
        """
        left = self.at - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded
        return left

    def check(self) -> None:
        """Do nothing while an answer is of use; to be asked before each piece of work.

        Raises:
            DeadlineExceeded: no time is left, or the caller has gone.
        """
        self.remaining()
        if self.abandoned():
            raise DeadlineExceeded(detail="the client has gone")
