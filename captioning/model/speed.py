"""How long batches take, by their size, as measured so far."""

from __future__ import annotations

from math import sqrt

_NEWEST_FASTER = 0.2  # how much the last batch weighs against all before it
_NEWEST_SLOWER = 0.5  # requests let in by an outdated speed would wait in vain
_MOST_SLOWER = 4.0  # than before; beyond that, the machine stood still, which tells nothing of the next batch


class BatchSeconds:
    """The seconds that a batch of each size takes: a moving average of those that ran.

    A CPU becomes slower or faster for all sizes: the last batch counts for those that did not run, too.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def learn(self, size: int, seconds: float) -> None:
        """Take in how long a batch of ``size`` pictures took."""
        if not self._seconds.get(size):
            self._seconds = {**self._seconds, size: seconds}  # a copy: others may be reading it
            return
        ratio = min(seconds / self._seconds[size], _MOST_SLOWER)
        change = 1 + (_NEWEST_SLOWER if ratio > 1 else _NEWEST_FASTER) * (ratio - 1)
        self._seconds = {known: change * its_seconds for known, its_seconds in self._seconds.items()}

    def pace(self, size: int, seconds: float) -> float:
        """Return how many times longer than before a batch takes that has run for ``seconds`` so far; 1 at least."""
        return min(max(1.0, seconds / self.of(size)), _MOST_SLOWER) if self.of(size) else 1.0

    def of(self, size: int) -> float:
        """Return the seconds that a batch of ``size`` takes; 0 for an empty one and while nothing is known.

        A size that has not run yet lies between its neighbours that have. Beyond the largest of them it lies between
        two guesses: as long as that one, or longer in proportion. The first would let in too many, the second could
        keep such a batch from ever running.
        """
        if not size or not self._seconds:
            return 0.0
        if size in self._seconds:
            return self._seconds[size]
        smaller = max((known for known in self._seconds if known < size), default=0)
        larger = min((known for known in self._seconds if known > size), default=0)
        if not smaller:
            return self._seconds[larger]
        if not larger:
            return self._seconds[smaller] * sqrt(size / smaller)
        part = (size - smaller) / (larger - smaller)
        return self._seconds[smaller] + part * (self._seconds[larger] - self._seconds[smaller])
