"""Clients that have yet to read their answers: for how long, and how many bytes of theirs are kept."""

from __future__ import annotations

from collections.abc import Iterable

from captioning.server.connection import Connection, Phase

SEND_TIMEOUT_S = 30.0
"""From the answer's end to its last byte taken by the client."""

MAX_UNSENT_BYTES = 16 * 1024 * 1024
"""Of all answers that are made and not read; beyond it, whoever has been reading for longest is hung up on."""


def to_hang_up_on(connections: Iterable[Connection]) -> list[Connection]:
    """Return whom to leave, the slowest first, so that all unread answers are within the limit."""
    sending = [each for each in connections if each.phase is Phase.SENDING]
    unsent = sum(len(each.unsent) for each in sending)
    found: list[Connection] = []
    while unsent > MAX_UNSENT_BYTES:
        slowest = sending[len(found)]
        unsent -= len(slowest.unsent)
        found.append(slowest)
    return found
