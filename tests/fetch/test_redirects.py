"""Redirects: followed up to a number, judged like the URL that was given, and never read."""

from __future__ import annotations

import pytest

from captioning import errors
from captioning.fetch.urls import MAX_URL_CHARS
from tests.bad_servers import (
    BadServer,
    answer_in_turn,
    answer_with,
    flood,
    gzip_bomb,
    http_answer,
    redirect_in_a_loop,
    redirect_to,
)
from tests.fetch.local import PICTURE, make_fetcher, memory_under

pytestmark = pytest.mark.usefixtures("names")


@pytest.mark.parametrize(
    ("location", "error"),
    [
        ("file:///etc/passwd", errors.InvalidImageUrl),
        ("ftp://127.0.0.1/", errors.InvalidImageUrl),
        ("data:image/png;base64,AAAA", errors.InvalidImageUrl),
        ("http://user:password@127.0.0.1/", errors.InvalidImageUrl),
        ("/" + "a" * MAX_URL_CHARS, errors.InvalidImageUrl),
        ("http://[::1", errors.InvalidImageUrl),
        ("http://\xff\xfe/", errors.InvalidImageUrl),
        ("http://127.0.0.1:port/", errors.InvalidImageUrl),
    ],
)
def test_a_redirect_to_what_cannot_be_fetched(location: str, error: type[errors.CaptioningError]) -> None:
    with BadServer(redirect_to(location)) as server, pytest.raises(error):
        make_fetcher().fetch(server.url())


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_redirects_are_followed_up_to_the_limit(limit: int) -> None:
    chain = [http_answer(status="302 Found", headers=["Location: /next"])] * limit
    with BadServer(answer_in_turn(*chain, http_answer(PICTURE))) as server:
        assert make_fetcher(max_redirects=limit).fetch(server.url()) == PICTURE
    with (
        BadServer(redirect_in_a_loop) as server,
        pytest.raises(errors.ImageFetchFailed, match=f"more than {limit}"),
    ):
        make_fetcher(max_redirects=limit).fetch(server.url())
    assert server.connections == limit + 1


def test_the_body_of_a_redirect_is_never_read() -> None:
    """psf/requests#5529: requests itself would read, unpack and keep it."""
    start = b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Encoding: gzip\r\n\r\n"
    with BadServer(flood(start, gzip_bomb(50_000_000))) as server:
        fetcher = make_fetcher()
        with memory_under(3_000_000), pytest.raises(errors.ImageFetchFailed, match="more than 5"):
            fetcher.fetch(server.url())


def test_a_redirect_without_a_location_is_no_picture() -> None:
    with (
        BadServer(answer_with(http_answer(PICTURE, status="302 Found"))) as server,
        pytest.raises(errors.ImageFetchFailed, match="302"),
    ):
        make_fetcher().fetch(server.url())
