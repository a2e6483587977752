"""A connection: a client that does not read a streamed answer is given up, within bounds of bytes and time."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from captioning.server.connection import MAX_WAITING_BYTES, Connection
from captioning.server.exchange import Exchange
from tests.conftest import wait_until

PIECE = bytes(16_384)


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, address = listener.accept()
    connection = Connection(accepted, address)
    with client:
        yield connection, client
    connection.close()


def send_until_refused(connection: Connection) -> int:
    for number in range(10_000):
        try:
            connection.send(PIECE, lambda: None)
        except BrokenPipeError:
            return number
    raise AssertionError("it took everything")


def test_a_stream_that_is_not_read_ends_and_holds_little(pair: tuple[Connection, socket.socket]) -> None:
    connection, _ = pair
    connection._patience_s = 0.5
    send_until_refused(connection)
    assert len(connection.unsent) <= MAX_WAITING_BYTES + len(PIECE)


def test_each_answer_over_a_connection_may_be_waited_for_as_long(pair: tuple[Connection, socket.socket]) -> None:
    """A gateway that had streamed many answers over one connection lost the rest of a later one."""
    connection, client = pair
    connection._patience_s = 0.0
    connection.begin(Exchange(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), {})
    connection.unsent += bytes(2 * MAX_WAITING_BYTES)  # it has yet to read so much
    sender = threading.Thread(target=connection.send, args=(PIECE, lambda: None))
    sender.start()
    received = 0
    while sender.is_alive() or connection.unsent:
        with suppress(BlockingIOError):
            received += len(client.recv(65_536, socket.MSG_DONTWAIT))
        connection.flush()
    connection.close()
    while piece := client.recv(65_536):
        received += len(piece)
    assert received == 2 * MAX_WAITING_BYTES + len(PIECE)


def test_a_stream_that_is_read_goes_on(pair: tuple[Connection, socket.socket]) -> None:
    connection, client = pair
    total = 400 * len(PIECE)
    received = 0

    def read() -> None:
        nonlocal received
        while received < total:
            received += len(client.recv(65_536))

    reader = threading.Thread(target=read)
    reader.start()
    woken = threading.Event()

    def flush() -> None:  # as the loop does
        while reader.is_alive():
            woken.wait(0.01)
            connection.flush()

    loop = threading.Thread(target=flush)
    loop.start()
    for _ in range(400):
        connection.send(PIECE, woken.set)
    reader.join(30)
    loop.join(30)
    assert received == total


def test_a_thread_that_waits_for_its_reader_learns_that_the_connection_was_closed(
    pair: tuple[Connection, socket.socket],
) -> None:
    connection, _ = pair
    sender = threading.Thread(target=send_until_refused, args=(connection,))
    sender.start()
    wait_until(lambda: len(connection.unsent) > MAX_WAITING_BYTES)
    connection.close()
    sender.join(10)
    assert not sender.is_alive()
