"""How long batches take, by their size, as measured so far."""

from __future__ import annotations

from math import sqrt

_NEWEST = 0.2  # how much the last batch weighs against all before it


class BatchSeconds:
    """The seconds that a batch of each size takes: a moving average of those that ran."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def learn(self, size: int, seconds: float) -> None:
        """Take in how long a batch of ``size`` pictures took."""
        known = self._seconds.get(size, seconds)
        self._seconds[size] = known + _NEWEST * (seconds - known)

    def of(self, size: int) -> float:
        """Return the seconds that a batch of ``size`` takes; 0 for an empty one and while nothing is known.

        A size that has not run yet lies between two guesses: as long as a smaller one that has, or longer in
        proportion. The first would let in too many, the second could keep such a batch from ever running.
        """
        if not size or not self._seconds:
            return 0.0
        if size in self._seconds:
            return self._seconds[size]
        smaller = [known for known in self._seconds if known < size]
        if not smaller:
            return self._seconds[min(self._seconds)]
        return self._seconds[max(smaller)] * sqrt(size / max(smaller))
