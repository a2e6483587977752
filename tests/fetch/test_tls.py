"""TLS is checked against the name that the URL gives."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from tests.bad_servers import (
    BadServer,
    answer_with,
    http_answer,
    redirect_to,
)
from tests.fetch.local import PICTURE, Names, make_fetcher

pytestmark = pytest.mark.usefixtures("names")


def test_tls_checks_and_names_the_original_host(tls_for: Any, names: Names) -> None:
    names.tell("pictures.example", ["127.0.0.1"])
    names.tell("pictures.example.", ["127.0.0.1"])
    context, asked_for = tls_for("pictures.example"), []
    context.sni_callback = lambda _socket, name, _context: asked_for.append(name)
    with BadServer(answer_with(http_answer(PICTURE)), tls=context) as server:
        assert make_fetcher().fetch(server.url(host="pictures.example")) == PICTURE
        assert make_fetcher().fetch(server.url(host="pictures.example.")) == PICTURE
    assert asked_for == ["pictures.example"] * 2
    assert f"Host: pictures.example:{server.port}\r\n".encode() in server.requests[0]


@pytest.mark.parametrize(("address", "host"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1")])
def test_tls_to_an_address_checks_the_address(tls_for: Any, address: str, host: str) -> None:
    with BadServer(answer_with(http_answer(PICTURE)), tls=tls_for(host), address=address) as server:
        assert make_fetcher().fetch(server.url()) == PICTURE


def test_redirects_lead_from_http_to_https_and_back(tls_for: Any) -> None:
    with ExitStack() as stack:
        last = stack.enter_context(BadServer(answer_with(http_answer(PICTURE))))
        secure = stack.enter_context(BadServer(redirect_to(last.url()), tls=tls_for("127.0.0.1")))
        first = stack.enter_context(BadServer(redirect_to(secure.url())))
        assert make_fetcher().fetch(first.url()) == PICTURE


def test_many_threads_share_the_tls_context(tls_for: Any) -> None:
    fetcher = make_fetcher()
    with (
        BadServer(answer_with(http_answer(PICTURE)), tls=tls_for("127.0.0.1")) as server,
        ThreadPoolExecutor(8) as pool,
    ):
        assert set(pool.map(lambda _: fetcher.fetch(server.url()), range(24))) == {PICTURE}
