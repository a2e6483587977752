"""Look-ups that are silent hold up their own domain, and a bounded number of threads."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from captioning import errors
from captioning.deadline import UNLIMITED, Deadline
from captioning.fetch import resolver
from tests.bad_servers import (
    BadServer,
    answer_with,
    http_answer,
)
from tests.fetch.local import PICTURE, Names, ended_in_time, look_ups, make_fetcher

pytestmark = pytest.mark.usefixtures("names")


@pytest.mark.usefixtures("stuck_resolver")
def test_a_stuck_resolver_ends_at_the_deadline_and_holds_a_bounded_number_of_threads() -> None:
    fetcher = make_fetcher(timeout_s=0.3)

    def fetch(number: int) -> None:
        with pytest.raises(errors.ImageFetchTimeout):
            fetcher.fetch(f"http://stuck-{number}.example/")

    with ended_in_time(), ThreadPoolExecutor(80) as pool:
        list(pool.map(fetch, range(80)))
    assert len(look_ups()) == resolver.MAX_LOOK_UPS


@pytest.mark.usefixtures("stuck_resolver")
def test_hosts_beside_ten_stuck_domains_are_found_and_addresses_need_no_look_up(names: Names) -> None:
    names.tell("images.example", ["127.0.0.1"])
    fetcher = make_fetcher(timeout_s=20)

    def fetch(url: str) -> None:
        with pytest.raises(errors.DeadlineExceeded):
            fetcher.fetch(url, deadline=Deadline.after(0.3))

    with BadServer(answer_with(http_answer(PICTURE))) as server, ThreadPoolExecutor(100) as pool:
        list(pool.map(fetch, [f"http://{number}.a.stuck.test/" for number in range(10)]))
        assert len(look_ups()) == 8
        by_name = server.url().replace("127.0.0.1", "images.example")
        assert fetcher.fetch(by_name) == PICTURE
        list(pool.map(fetch, [f"http://{number % 10}.a.stuck-{number // 10}.test/" for number in range(100)]))
        assert fetcher.fetch(by_name) == PICTURE
        list(pool.map(fetch, [f"http://stuck-{number}.example/" for number in range(50)]))
        assert len(look_ups()) == resolver.MAX_LOOK_UPS
        with ended_in_time():
            assert fetcher.fetch(server.url()) == PICTURE
            fetch(by_name)


@pytest.mark.usefixtures("stuck_resolver")
def test_one_look_up_serves_all_who_ask_for_a_name_and_once_it_is_stuck_they_are_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetcher = make_fetcher(timeout_s=0.4)

    def fetch(_: int) -> None:
        with pytest.raises(errors.ImageFetchTimeout):
            fetcher.fetch("http://stuck.example/")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fetch, range(8)))
    assert len(look_ups()) == 1
    monkeypatch.setattr(resolver, "STUCK_S", 0.0)
    with pytest.raises(errors.ImageFetchFailed, match="name servers of the image's host do not answer"):
        fetcher.fetch("http://stuck.example/")


def test_no_look_up_answers_who_asks_after_it_was_answered(names: Names) -> None:
    addresses = [f"192.0.2.{number}" for number in range(200)]
    names.tell("moving.example", *([address] for address in addresses))
    asked = resolver.Resolver()
    assert [asked.addresses("moving.example", 80, UNLIMITED)[0][1][0] for _ in addresses] == addresses


def test_a_stuck_resolver_does_not_keep_the_process_from_ending() -> None:
    code = (
        "import socket, time\n"
        "socket.getaddrinfo = lambda *a, **k: time.sleep(60)\n"
        "from captioning.fetch.fetcher import Fetcher\n"
        "Fetcher(connect_timeout_s=1, timeout_s=0.2, max_redirects=0, max_bytes=1, allowed_ports=None,"
        " allow_private_addresses=True, allowed_hosts=frozenset(), user_agent='a').fetch('http://stuck.example/')\n"
    )
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=40)
    assert "ImageFetchTimeout" in ended.stderr
