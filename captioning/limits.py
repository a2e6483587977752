"""Every limit on what may be under way at once: made once, handed to whoever needs it, watched by the metrics.

| limit | counts | who finds it full |
|---|---|---|
| `requests` | requests under way, and further pictures of bulk requests | is refused at once: it may come again |
| `urls` | those with URLs, whose servers may be slow, and all bulk requests: uploads have a quarter | refused at once |
| `bodies` | bytes of request bodies, and of what is parsed from them | waits in line |
| `downloads` | downloads under way | waits in line |
| `pictures` | bytes of encoded pictures from downloads and data: URLs | waits in line |
| `decoders` | pictures that are decoded | waits in line |

Whoever still stands in a line at the deadline is refused as those are who find no permit: it may come again.

They are taken in this order and none is waited for by a holder of a later one, so no two requests can wait for each
other. The model's queue, after the last of them, is bounded by `requests`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from captioning.deadline import Deadline
from captioning.errors import CaptioningError, ImageTooLarge, Overloaded
from captioning.settings import Settings

URL_BODY_BYTES = 16_384
"""A body that names a picture by its URL, with a prompt, is no larger."""


def check_image_bytes(size: int, max_bytes: int) -> None:
    """Raise `ImageTooLarge` where an encoded picture of this size is over the limit."""
    if size > max_bytes:
        raise ImageTooLarge(f"The image is over the limit of {max_bytes:,} bytes.")


def within_limit(image: bytes, max_bytes: int) -> bytes:
    """Return an encoded picture as it is; raise as `check_image_bytes` does."""
    check_image_bytes(len(image), max_bytes)
    return image


class Permits:
    """A number of permits, each taken at once or not at all."""

    waiting = 0

    def __init__(self, limit: int, *, within: Permits | None = None) -> None:
        """Begin with all permits free; each takes one of ``within`` too."""
        self.limit = limit
        self.in_use = 0
        self._within = within
        self._lock = threading.RLock()

    @property
    def full(self) -> bool:
        """Tell whether there is no permit now."""
        return self.in_use >= self.limit or (self._within is not None and self._within.full)

    @contextmanager
    def permit(self, retry_after_s: Callable[[], float]) -> Iterator[None]:
        """Hold one permit.

        Raises:
            Overloaded: all permits are taken; it carries what ``retry_after_s`` returns.
        """
        with ExitStack() as held:
            with self._lock:
                if has_one := self.in_use < self.limit:
                    held.enter_context(self.counted())
            if not has_one:
                raise Overloaded(retry_after_s=retry_after_s())
            if self._within:
                held.enter_context(self._within.permit(retry_after_s))
            yield

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Be counted as the holder of a permit, though there be none left: others are then refused the sooner."""
        with self._lock:
            self.in_use += 1
        try:
            yield
        finally:
            with self._lock:
                self.in_use -= 1


def still_in_line(since: float) -> Overloaded:
    """Make the refusal of who has waited in vain, on the monotonic clock ``since`` then: that long again may do."""
    return Overloaded(detail="its time was over in the line", retry_after_s=time.monotonic() - since)


def in_line(deadline: Deadline) -> Deadline:
    """Return the deadline of who stands in a line from now on."""
    return replace(deadline, error=partial(still_in_line, time.monotonic()))


class Slots:
    """A number of slots, handed out first come, first served."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_use = 0
        self._lock = threading.Lock()
        self._line: deque[threading.Event] = deque()

    @property
    def waiting(self) -> int:
        """Return how many wait for a slot."""
        return len(self._line)

    @contextmanager
    def slot(self, deadline: Deadline) -> Iterator[None]:
        """Hold one slot, after waiting for it.

        Raises:
            Overloaded: none came free in time.
            CaptioningError: else as `Deadline.check`.
        """
        turn = threading.Event()  # one for each: waking all at each change would keep the interpreter's lock busy
        with self._lock:
            self._line.append(turn)
            self._hand_out()
        try:
            deadline = in_line(deadline)
            while not turn.is_set():
                turn.wait(timeout=deadline.poll_s())
            yield
        finally:
            with self._lock:
                if turn.is_set():
                    self.in_use -= 1
                else:
                    self._line.remove(turn)
                self._hand_out()

    def _hand_out(self) -> None:
        while self._line and self.in_use < self.limit:
            self.in_use += 1
            self._line.popleft().set()


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
        deadline = in_line(deadline)
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


@dataclass(frozen=True)
class Limits:
    """All limits of one process; the module's own text says what each counts."""

    requests: Permits
    urls: Permits
    bodies: ByteBudget
    downloads: Slots
    pictures: ByteBudget
    decoders: Slots

    @classmethod
    def from_settings(cls, settings: Settings) -> Limits:
        """Make the limits that the settings ask for."""
        return cls(
            requests=Permits(settings.max_concurrent_requests),
            urls=Permits(settings.max_concurrent_downloads),
            # A data: URL in JSON stands in memory five times while it is read: see captioning.web.caption_request.
            bodies=ByteBudget(2 * settings.max_body_bytes, largest=5 * settings.max_body_bytes, free=URL_BODY_BYTES),
            downloads=Slots(settings.max_concurrent_downloads),
            pictures=ByteBudget(2 * settings.max_image_bytes, largest=settings.max_image_bytes),
            decoders=Slots(settings.decode_processes),
        )
