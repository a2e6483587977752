"""What may be in the works at once: requests, and the bytes that they hold in memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from captioning.deadline import Deadline
from captioning.errors import DeadlineExceeded, Overloaded


class Admission:
    """Let a fixed number of requests in, and turn the next one away at once: a queue that nobody sees helps nobody."""

    def __init__(self, limit: int, *, within: Admission | None = None) -> None:
        """Begin with all permits free; each takes one of ``within`` too."""
        self.limit = limit
        self.in_use = 0
        self._within = within
        self._lock = threading.Lock()

    @contextmanager
    def permit(self, retry_after_s: Callable[[], float]) -> Iterator[None]:
        """Hold one permit.

        Raises:
            Overloaded: all permits are taken; it carries what ``retry_after_s`` returns.
        """
        with self._lock:
            full = self.in_use >= self.limit
            self.in_use += not full
        if full:
            raise Overloaded(retry_after_s=retry_after_s())
        try:
            with self._within.permit(retry_after_s) if self._within else nullcontext():
                yield
        finally:
            with self._lock:
                self.in_use -= 1


class MemoryBudget:
    """Share out a number of bytes, first come first served; who asks for more than is free waits."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self._changed = threading.Condition()
        self._held = 0
        self._held_by_waiters = 0
        self._line: deque[MemoryHold] = deque()

    @property
    def held_bytes(self) -> int:
        """Return how much of it is taken."""
        return self._held

    @contextmanager
    def hold(self, deadline: Deadline) -> Iterator[MemoryHold]:
        """Open a hold of no bytes; what it grows to is given back at the end."""
        hold = MemoryHold(self, deadline)
        try:
            yield hold
        finally:
            with self._changed:
                self._held -= hold.size
                self._changed.notify_all()

    def _grow(self, hold: MemoryHold, size: int) -> None:
        with self._changed:
            self._line.append(hold)
            self._held_by_waiters += hold.size
            self._changed.notify_all()  # whoever is first in line may now find that waiting cannot help
            try:
                while self._line[0] is not hold or self._held + size > self.total_bytes:
                    if self._held == self._held_by_waiters and self._line[0] is hold:
                        # All that is held belongs to others in this line, none of whom can finish: one must give up.
                        raise Overloaded(detail="memory budget", retry_after_s=1)
                    if not self._changed.wait(timeout=hold.deadline.remaining()):
                        raise DeadlineExceeded(detail="waited for memory")
                self._held += size
            finally:
                self._line.remove(hold)
                self._held_by_waiters -= hold.size
                self._changed.notify_all()
            hold.size += size


class MemoryHold:
    """Hold a part of the budget for one request."""

    def __init__(self, budget: MemoryBudget, deadline: Deadline) -> None:
        self.size = 0
        self.deadline = deadline
        self._budget = budget

    def grow(self, size: int) -> None:
        """Take ``size`` bytes more, waiting for them until the deadline.

        Raises:
            Overloaded: waiting cannot help.
            DeadlineExceeded: the bytes did not come free in time.
        """
        self._budget._grow(self, size)
