"""No server sends more than a picture may have."""

from __future__ import annotations

import gzip

import pytest

from captioning import errors
from tests.bad_servers import (
    BadServer,
    answer_with,
    drip,
    flood,
    gzip_bomb,
    http_answer,
)
from tests.fetch.local import CHUNKED, OK, PICTURE, ended_in_time, make_fetcher, memory_under

pytestmark = pytest.mark.usefixtures("names")


def test_a_body_of_exactly_the_limit_is_fetched() -> None:
    with BadServer(answer_with(http_answer(PICTURE))) as server:
        assert make_fetcher(max_bytes=len(PICTURE)).fetch(server.url()) == PICTURE
        with pytest.raises(errors.ImageTooLarge, match="10,239 bytes"):
            make_fetcher(max_bytes=len(PICTURE) - 1).fetch(server.url())


def test_an_announced_length_over_the_limit_is_refused_unread() -> None:
    with (
        BadServer(drip(f"{OK}Content-Length: 1000001\r\n\r\n".encode(), b"x")) as server,
        ended_in_time(),
        pytest.raises(errors.ImageTooLarge, match="1,000,000 bytes"),
    ):
        make_fetcher().fetch(server.url())


@pytest.mark.parametrize(
    ("start", "wave", "error"),
    [
        pytest.param(f"{OK}\r\n".encode(), bytes(65_536), errors.ImageTooLarge, id="no length"),
        pytest.param(CHUNKED, b"10000\r\n" + bytes(65_536) + b"\r\n", errors.ImageTooLarge, id="chunks"),
        pytest.param(CHUNKED + b"fffffffff\r\n", bytes(65_536), errors.ImageTooLarge, id="one chunk"),
        pytest.param(CHUNKED + b"-1\r\n", bytes(65_536), errors.ImageFetchFailed, id="chunk of -1"),
        pytest.param(CHUNKED + b"0\r\n", b"X: " + b"y" * 500 + b"\r\n", errors.ImageFetchFailed, id="trailers"),
        pytest.param(
            b"", b"HTTP/1.1 100 Continue\r\nX: " + b"y" * 500 + b"\r\n\r\n", errors.ImageFetchFailed, id="100 Continue"
        ),
        pytest.param(
            f"{OK}Content-Encoding: gzip\r\n\r\n".encode() + gzip.compress(b"x")[:10],
            b"\x00\x00\x00\xff\xff" * 1000,
            errors.ImageFetchFailed,
            id="empty deflate blocks",
        ),
    ],
)
def test_a_flood_ends_at_a_number_of_bytes(start: bytes, wave: bytes, error: type[Exception]) -> None:
    with BadServer(flood(start, wave)) as server:
        fetcher = make_fetcher(max_bytes=200_000)
        with memory_under(4_000_000), pytest.raises(error):
            fetcher.fetch(server.url())


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate"])
def test_a_bomb_is_unpacked_no_further_than_the_limit(coding: str) -> None:
    bomb = gzip_bomb(50_000_000)
    with BadServer(answer_with(http_answer(bomb, headers=[f"Content-Encoding: {coding}"]))) as server:
        fetcher = make_fetcher(max_bytes=1_000_000)
        with memory_under(5_000_000), pytest.raises(errors.ImageTooLarge):
            fetcher.fetch(server.url())
