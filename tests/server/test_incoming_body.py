"""Whose fault it is when a body has not come in time: the client's, or that of a budget that is used up."""

from __future__ import annotations

import pytest

from captioning.byte_budget import ByteBudget, ByteHold
from captioning.errors import BodyTooLarge, DeadlineExceeded, Overloaded
from captioning.server.exchange import Exchange
from captioning.server.incoming_body import IncomingBody
from captioning.web.body import BodyRules, ExpectedBody

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 100\r\n\r\n"
DEADLINE_AT = 1e12


def body_within(budget: ByteBudget) -> IncomingBody:
    rules = BodyRules(max_bytes=100, budget=budget, expected=lambda environ: None)
    return IncomingBody(Exchange(HEAD), rules, ExpectedBody(DEADLINE_AT))


def test_a_body_that_waited_for_bytes_to_the_end_is_told_to_come_again() -> None:
    budget = ByteBudget(100, largest=100)
    others = [ByteHold(budget), ByteHold(budget)]
    for other in others:
        assert other.try_grow(100)
    body = body_within(budget)
    assert body.room_for(50) == 0
    body.pause()
    assert body.is_too_late(DEADLINE_AT)
    failure = body.arrived().failure
    assert isinstance(failure, Overloaded)
    assert failure.retry_after_s is not None


def test_a_body_that_its_client_did_not_send_is_late() -> None:
    body = body_within(ByteBudget(100, largest=100))
    body.pause()
    body.resume()
    assert body.room_for(50) == 50
    assert body.is_too_late(DEADLINE_AT)
    assert isinstance(body.arrived().failure, DeadlineExceeded)


@pytest.mark.parametrize("max_bytes", [1_024, 8_192])
def test_a_small_limit_of_bodies_is_kept_whatever_arrives_at_once(max_bytes: int) -> None:
    """The settings allow it; more was asked of the budget than it ever holds, and that ended the worker."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n"
    rules = BodyRules(max_bytes, ByteBudget(2 * max_bytes, largest=5 * max_bytes), lambda environ: None)
    body = IncomingBody(Exchange(head), rules, ExpectedBody(DEADLINE_AT))
    sent = b"ffff\r\n" + bytes(0xFFFF) + b"\r\n0\r\n\r\n"
    while not body.is_whole:
        room = body.room_for(len(sent))
        assert room
        body.receive(sent[:room])
        sent = sent[room:]
    assert isinstance(body.arrived().failure, BodyTooLarge)
