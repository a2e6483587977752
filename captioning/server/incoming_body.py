"""A request's body on its way in: within the budget of bytes, at a minimum rate, until the request's deadline."""

from __future__ import annotations

import time

from captioning.byte_budget import ByteHold
from captioning.deadline import still_in_line
from captioning.errors import BodyTooLarge, CaptioningError, DeadlineExceeded, InvalidRequest
from captioning.server.exchange import BadHttp, Exchange
from captioning.web.body import ArrivedBody, BodyRules, ExpectedBody, parsing_bound

MIN_BODY_RATE = 1_024
"""Bytes a second that must come in every window, while the body is read. A phone on a bad line sends tenfold."""

BODY_WINDOW_S = 5.0

_PIECE = 65_536


class IncomingBody:
    """The body of one exchange, until it is whole or has failed."""

    def __init__(self, exchange: Exchange, rules: BodyRules, expected: ExpectedBody) -> None:
        """Begin; nothing has come yet."""
        self.expires_at = 0.0
        self._exchange = exchange
        self._rules = rules
        self._expected = expected
        self._hold = ByteHold(rules.budget)
        self._failure: CaptioningError | None = None
        self._paused_since: float | None = None
        self._window_began_with = 0
        self._begin_window()

    @property
    def size(self) -> int:
        """Return how many bytes have come."""
        return self._exchange.body.tell()

    def room_for(self, available: int) -> int:
        """Take room for some of the bytes that can be read, and return for how many; 0 while the budget has none."""
        size = min(max(available, 1), _PIECE, self._hold.largest - self._hold.size)
        if (length := self._exchange.content_length) is not None:
            size = min(size, length - self.size)
        return size if self._hold.try_grow(size) else 0

    def leave_room(self) -> None:
        """Give back the room for what was not there to be read."""
        self._hold.shrink(self.size)

    @property
    def is_whole(self) -> bool:
        """Tell whether nothing more is to come."""
        return self._exchange.complete or self._failure is not None

    @property
    def is_hopeless(self) -> bool:
        """Tell whether the request, whole, is refused now for want of permits."""
        return (
            self._failure is None
            and self._exchange.complete
            and self._expected.is_hopeless(self._exchange.body.getvalue())
        )

    def has_room_to_parse(self) -> bool:
        """Take room for what parsing it takes, so that no thread has to wait for that; tell whether there was."""
        if self._failure is not None:
            return True
        content_type = self._exchange.fields.get(b"content-type", b"").decode("latin-1")
        more = parsing_bound(content_type, self.size)
        # What can never fit is refused by the application, which knows the sentence.
        return self._hold.size + more > self._hold.largest or self._hold.try_grow(more)

    def receive(self, piece: bytes) -> None:
        """Take what was read, ``b""`` when the client sends no more."""
        if not piece:
            whole = self._exchange.content_length
            of = "" if whole is None else f" of {whole:,}"
            self._failure = InvalidRequest(f"The request body ended after {self.size:,}{of} bytes.")
            return
        try:
            self._exchange.receive(piece)
        except BadHttp as error:
            self._failure = InvalidRequest("The request body is badly framed.", detail=str(error))
            return
        self.leave_room()
        if self.size > self._rules.max_bytes:
            self._failure = BodyTooLarge(f"The request body is over the limit of {self._rules.max_bytes:,} bytes.")

    def pause(self) -> None:
        """Stop the clock of the minimum rate: it is the service that does not read."""
        self.expires_at = self._expected.deadline_at
        self._paused_since = self._paused_since or time.monotonic()

    def resume(self) -> None:
        """Start it again."""
        self._paused_since = None
        self._begin_window()

    def is_too_late(self, now: float) -> bool:
        """Tell whether waiting for more is over; asked when `expires_at` has come."""
        if now >= self._expected.deadline_at and self._paused_since is not None:
            self._failure = still_in_line(self._paused_since)
        elif now >= self._expected.deadline_at:
            self._failure = DeadlineExceeded("The request's time was over before its body had come.")
        elif self.size - self._window_began_with < MIN_BODY_RATE * BODY_WINDOW_S:
            self._failure = DeadlineExceeded(f"The request body comes slower than {MIN_BODY_RATE:,} bytes a second.")
        else:
            self._begin_window()
        return self._failure is not None

    def arrived(self) -> ArrivedBody:
        """Return what came, or why it did not; what it holds of the budget goes with it."""
        return ArrivedBody(self._exchange.take_body(), self._hold, self._failure)

    def drop(self) -> None:
        """Give back what it holds."""
        self._hold.release()

    def _begin_window(self) -> None:
        self._window_began_with = self.size
        self.expires_at = min(time.monotonic() + BODY_WINDOW_S, self._expected.deadline_at)
