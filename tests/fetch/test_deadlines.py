"""Every download ends: at its one deadline, or with its caller."""

from __future__ import annotations

import gzip
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from captioning import errors
from captioning.deadline import Deadline
from tests.bad_servers import (
    BadServer,
    Behaviour,
    Connection,
    drip,
    http_answer,
    say_nothing,
    sleep_before,
)
from tests.conftest import wait_until
from tests.fetch.local import CHUNKED, OK, PICTURE, ended_in_time, make_fetcher

pytestmark = pytest.mark.usefixtures("names")


HEADER_DRIP = drip(OK.encode() + b"X: ", b"x")
DRIPS = [
    pytest.param(drip(b"", b"H"), id="status line"),
    pytest.param(HEADER_DRIP, id="header line"),
    pytest.param(drip(OK.encode(), b"X: y\r\n", 0.02), id="headers"),
    pytest.param(drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), id="100 Continue"),
    pytest.param(drip(b"HTTP/1.1 100 Continue\r\n", b"X: y\r\n"), id="headers of 100 Continue"),
    pytest.param(drip(f"{OK}Content-Length: 99999\r\n\r\n".encode(), b"x"), id="body"),
    pytest.param(drip(f"{OK}\r\n".encode(), b"x"), id="body without a length"),
    pytest.param(drip(CHUNKED, b"0"), id="chunk size"),
    pytest.param(drip(CHUNKED + b"1;", b"x"), id="chunk extension"),
    pytest.param(drip(CHUNKED, b"1\r\nx\r\n"), id="chunks"),
    pytest.param(drip(CHUNKED + b"fffff\r\n", b"x"), id="inside a chunk"),
    pytest.param(drip(CHUNKED + b"0\r\n", b"X: y\r\n"), id="trailers"),
    pytest.param(drip(CHUNKED + b"0\r\nX: ", b"x"), id="inside a trailer"),
    pytest.param(
        drip(f"{OK}Content-Encoding: gzip\r\n\r\n".encode() + gzip.compress(b"x")[:10], b"\x00\x00\x00\xff\xff"),
        id="empty deflate blocks",
    ),
    pytest.param(say_nothing, id="silence"),
    pytest.param(sleep_before(30, http_answer(PICTURE)), id="a late answer"),
]


@pytest.mark.parametrize("behaviour", DRIPS)
def test_a_server_that_never_ends_is_ended_at_the_deadline(behaviour: Behaviour) -> None:
    with BadServer(behaviour) as server:
        fetcher = make_fetcher(timeout_s=0.4, max_bytes=100_000_000)
        with ended_in_time(), pytest.raises(errors.ImageFetchTimeout, match=r"within 0\.4 seconds"):
            fetcher.fetch(server.url())


@pytest.mark.parametrize(
    "behaviour", [drip(f"{OK}Content-Length: 99999\r\n\r\n".encode(), b"x"), HEADER_DRIP, drip(CHUNKED, b"0")]
)
def test_so_is_one_that_drips_over_tls(tls_for: Any, behaviour: Behaviour) -> None:
    with BadServer(behaviour, tls=tls_for("127.0.0.1")) as server:
        fetcher = make_fetcher(timeout_s=0.5)
        with ended_in_time(), pytest.raises(errors.ImageFetchTimeout):
            fetcher.fetch(server.url())


def drip_a_handshake(connection: Connection) -> None:
    connection.client.recv(65_536)
    connection.send(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")
    while True:
        connection.sleep(0.05)
        connection.send(b"\x00")


@pytest.mark.parametrize("behaviour", [say_nothing, drip_a_handshake])
def test_so_is_a_tls_handshake(behaviour: Behaviour) -> None:
    with BadServer(behaviour) as server, ended_in_time(), pytest.raises(errors.ImageFetchTimeout):
        make_fetcher(timeout_s=0.4).fetch(server.url().replace("http:", "https:"))


def test_redirects_share_the_one_deadline() -> None:
    again = http_answer(status="302 Found", headers=["Location: /again"])
    with BadServer(sleep_before(0.15, again)) as server, ended_in_time(), pytest.raises(errors.ImageFetchTimeout):
        make_fetcher(timeout_s=0.4, max_redirects=20).fetch(server.url())
    assert server.connections <= 3


def test_the_caller_s_deadline_counts_when_it_is_sooner() -> None:
    with BadServer(say_nothing) as server:
        with ended_in_time(), pytest.raises(errors.DeadlineExceeded):
            make_fetcher().fetch(server.url(), deadline=Deadline.after(0.2))
        with ended_in_time(), pytest.raises(errors.ImageFetchTimeout, match=r"0\.2 seconds"):
            make_fetcher(timeout_s=0.2).fetch(server.url(), deadline=Deadline.after(30))
        for none_left in (0.0, -1.0):
            with ended_in_time(), pytest.raises(errors.DeadlineExceeded):
                make_fetcher().fetch(server.url(), deadline=Deadline.after(none_left))


def stuck_in_a_handshake(connection: Connection) -> None:
    connection.client.recv(65_536)
    connection.sleep(3600)


@pytest.mark.parametrize(
    ("behaviour", "scheme"),
    [
        pytest.param(say_nothing, "http", id="before the head"),
        pytest.param(drip(OK.encode() + b"X: ", b"x"), "http", id="in the head"),
        pytest.param(drip(f"{OK}Content-Length: 99999\r\n\r\n".encode(), b"x"), "http", id="in the body"),
        pytest.param(stuck_in_a_handshake, "https", id="in the handshake"),
    ],
)
def test_a_download_ends_with_its_caller(behaviour: Behaviour, scheme: str) -> None:
    gone = threading.Event()
    with BadServer(behaviour) as server, ThreadPoolExecutor(1) as pool:
        url = server.url().replace("http:", f"{scheme}:")
        download = pool.submit(make_fetcher().fetch, url, deadline=Deadline(math.inf, abandoned=gone.is_set))
        wait_until(lambda: server.connections == 1)
        gone.set()
        with ended_in_time(), pytest.raises(errors.DeadlineExceeded, match="gone"):
            download.result(timeout=20)


@pytest.mark.usefixtures("stuck_resolver")
def test_so_does_a_look_up() -> None:
    leaving = iter([False, False])
    with ended_in_time(), pytest.raises(errors.DeadlineExceeded, match="gone"):
        make_fetcher().fetch("http://stuck.example/", deadline=Deadline(math.inf, lambda: next(leaving, True)))
