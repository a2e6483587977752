"""A connection: a client that does not read a streamed answer is given up, within bounds of bytes and time."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from captioning.server.connection import MAX_WAITING_BYTES, Connection
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
