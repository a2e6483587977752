"""Bytes that requests share: whoever finds too few waits in line, and no half-done work can lock the others up."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from captioning.deadline import Deadline
from captioning.errors import CaptioningError


class ByteBudget:
    """A number of bytes, shared out first come, first served, that no half-done work can lock up.

    Holds grow piece by piece, as bytes arrive. If all of them stopped half-way for want of bytes, none could go on.
    So beside ``limit`` there is a reserve in which the largest hold fits: whoever is first in line moves there when
    nobody else is in it, finishes, and gives it back. In all, ``limit + largest`` bytes are held at most. Those who fit
    beside the others do not wait behind one that needs the reserve.

    The first ``free`` bytes of a hold count for nothing: a request that names a URL does not wait behind those that
    bring pictures.
    """

    def __init__(self, limit: int, *, largest: int, free: int = 0) -> None:
        self.limit = limit
        self.largest = largest
        self._free = free
        self._lock = threading.Lock()
        self._shared = 0
        self._line: deque[ByteHold] = deque()
        self._in_reserve: ByteHold | None = None

    @property
    def most(self) -> int:
        """Return how many bytes are held at most, the reserve included."""
        return self.limit + self.largest

    @property
    def in_use(self) -> int:
        """Return how many bytes are held."""
        reserve = self._in_reserve
        return self._shared + (self._counted(reserve.size) if reserve else 0)

    @property
    def waiting(self) -> int:
        """Return how many holds wait to grow."""
        return len(self._line)

    @contextmanager
    def hold(self) -> Iterator[ByteHold]:
        """Open a hold of no bytes; what it grows to is given back at the end."""
        hold = ByteHold(self)
        try:
            yield hold
        finally:
            hold.release()

    def _counted(self, size: int) -> int:
        return max(0, size - self._free)

    def _try_resize(self, hold: ByteHold, size: int) -> bool:
        if size > self.largest:
            raise ValueError(f"a hold of {size:,} bytes, where the largest is {self.largest:,}")
        more = self._counted(size) - self._counted(hold.size)
        if hold is not self._in_reserve:
            first = not self._line or self._line[0] is hold
            may_go_on = first or not self._fits(self._line[0].lacking)
            if more <= 0 or (may_go_on and self._fits(more)):
                self._shared += more
            elif first and self._in_reserve is None:
                self._shared -= self._counted(hold.size)
                self._in_reserve = hold
            else:
                hold.lacking = more
                if hold not in self._line:
                    self._line.append(hold)
                return False
        elif more < 0 and self._fits(self._counted(size)):
            self._shared += self._counted(size)  # what is left of it fits beside the others again
            self._in_reserve = None
        hold.size = size
        self._leave_line(hold)
        return True

    def _fits(self, size: int) -> bool:
        return self._shared + size <= self.limit

    def _leave_line(self, hold: ByteHold) -> None:
        if hold in self._line:
            self._line.remove(hold)
        self._wake()

    def _wake(self) -> None:
        # Not all of them at each piece that somebody gives back: they would keep the interpreter's lock busy.
        if not self._line:
            return
        first, *others = self._line
        first.may_go_on.notify()
        if not self._fits(first.lacking):
            for other in others:
                if self._fits(other.lacking):
                    other.may_go_on.notify()


class ByteHold:
    """The bytes that one piece of work has of a budget: their number, and the seconds that `grow` waited for them."""

    def __init__(self, budget: ByteBudget) -> None:
        self.size = 0
        self.lacking = 0
        self.waited_s = 0.0
        self.largest = budget.largest
        self.may_go_on = threading.Condition(budget._lock)
        self._budget = budget

    def try_grow(self, size: int) -> bool:
        """Take ``size`` bytes more if that is possible now; else keep a place in the line, to be asked again."""
        with self._budget._lock:
            return self._budget._try_resize(self, self.size + size)

    def grow(self, size: int, deadline: Deadline) -> None:
        """Take ``size`` bytes more, after waiting for them.

        Raises:
            Overloaded: they did not come free in time.
            CaptioningError: else as `Deadline.check`.
        """
        began = time.monotonic()
        deadline = deadline.in_line()
        with self._budget._lock:
            try:
                while not self._budget._try_resize(self, self.size + size):
                    self.may_go_on.wait(timeout=deadline.poll_s())
            except CaptioningError:
                self._budget._leave_line(self)
                raise
            finally:
                self.waited_s += time.monotonic() - began

    def take_over(self, other: ByteHold) -> None:
        """Take all that ``other`` has of the same budget; to be called by one that holds nothing yet."""
        with self._budget._lock:
            if self._budget._in_reserve is other:
                self._budget._in_reserve = self
            self.size, other.size = other.size, 0
            self._budget._leave_line(other)

    def shrink(self, size: int) -> None:
        """Give back all but ``size`` bytes, and the place in the line."""
        with self._budget._lock:
            self._budget._try_resize(self, min(size, self.size))

    def give_back(self, size: int) -> None:
        """Give back ``size`` bytes, or what there is of them."""
        with self._budget._lock:
            self._budget._try_resize(self, max(0, self.size - size))

    def release(self) -> None:
        """Give back all bytes."""
        self.shrink(0)
