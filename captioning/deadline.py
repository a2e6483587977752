"""The moment by which a request must be answered."""

from __future__ import annotations

import time
from dataclasses import dataclass

from captioning.errors import DeadlineExceeded


@dataclass(frozen=True)
class Deadline:
    """Hold a moment on the monotonic clock, in seconds."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Make the deadline that many seconds from now."""
        return cls(time.monotonic() + seconds)

    def remaining(self) -> float:
        """Return the seconds left.

        Raises:
            DeadlineExceeded: none are left.
        """
        left = self.at - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded
        return left

    @property
    def passed(self) -> bool:
        """Tell whether the moment has come."""
        return time.monotonic() >= self.at
