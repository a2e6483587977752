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

Only bytes and slots are waited for, and they are taken in this order; permits are never waited for. So no two requests
can wait for each other. The model's queue, after the last of them, is bounded by `requests`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from captioning.byte_budget import ByteBudget
from captioning.deadline import Deadline
from captioning.errors import ImageTooLarge, Overloaded
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
        """Count as one permit in use, even if all are taken; others are then refused earlier."""
        with self._lock:
            self.in_use += 1
        try:
            yield
        finally:
            with self._lock:
                self.in_use -= 1


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
            deadline = deadline.in_line()
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
        # A data: URL in JSON stands in memory five times while it is read: see captioning.web.caption_request. What is
        # small has room for what any body takes.
        largest_body = 5 * settings.max_body_bytes + 4 * URL_BODY_BYTES
        return cls(
            requests=Permits(settings.max_concurrent_requests),
            urls=Permits(settings.max_concurrent_downloads),
            bodies=ByteBudget(2 * settings.max_body_bytes, largest=largest_body, free=URL_BODY_BYTES),
            downloads=Slots(settings.max_concurrent_downloads),
            # Each of three layers of brotli or zstd keeps as much again: see captioning.fetch.codings.
            pictures=ByteBudget(2 * settings.max_image_bytes, largest=4 * settings.max_image_bytes),
            decoders=Slots(settings.decode_processes),
        )
