"""The fetcher against real sockets: what it fetches, what it refuses, and that it always comes to an end."""

from __future__ import annotations

import gc
import gzip
import math
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from captioning import errors
from captioning.deadline import UNLIMITED, Deadline
from captioning.fetch import destinations, resolver
from captioning.fetch.addresses import is_public_unicast
from captioning.fetch.limited_socket import LimitedSocket
from captioning.fetch.urls import MAX_URL_CHARS, parse_url
from tests.bad_servers import (
    BadServer,
    Behaviour,
    Connection,
    answer_by_path,
    answer_in_turn,
    answer_with,
    drip,
    flood,
    gzip_bomb,
    http_answer,
    redirect_in_a_loop,
    redirect_to,
    say_nothing,
    sleep_before,
)
from tests.conftest import wait_until
from tests.fetch.local import Names, make_fetcher

PICTURE = bytes(range(256)) * 40
OK = "HTTP/1.1 200 OK\r\n"

pytestmark = pytest.mark.usefixtures("names")


@pytest.fixture
def public_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 127.0.0.2 stand for the public internet; all other addresses are judged as ever."""
    monkeypatch.setattr(destinations, "is_public_unicast", lambda a: a == "127.0.0.2" or is_public_unicast(a))


@contextmanager
def ended_in_time() -> Iterator[None]:
    """Allow for a busy machine: what is ended here would otherwise last half a minute or for ever."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < 10


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


# What it fetches


def test_the_body_comes_back_byte_for_byte() -> None:
    with BadServer(answer_with(http_answer(PICTURE))) as server:
        assert make_fetcher().fetch(server.url("/a.png?b=c#d")) == PICTURE
    request = server.requests[0].decode()
    assert request.startswith("GET /a.png?b=c HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{server.port}\r\n" in request
    assert "User-Agent: tests/1.0\r\n" in request
    assert "Accept: image/*,*/*;q=0.8\r\n" in request
    assert "Accept-Encoding: identity\r\n" in request


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(http_answer(PICTURE, length=False), id="until the end"),
        pytest.param(
            f"{OK}Transfer-Encoding: chunked\r\n\r\n{len(PICTURE):x};ext=1\r\n".encode()
            + PICTURE
            + b"\r\n0\r\nTrailer: x\r\n\r\n",
            id="chunked",
        ),
        pytest.param(http_answer(gzip.compress(PICTURE), headers=["Content-Encoding: GZIP"]), id="gzip"),
        pytest.param(http_answer(zlib.compress(PICTURE), headers=["Content-Encoding: deflate"]), id="deflate"),
        pytest.param(http_answer(PICTURE, headers=["Content-Encoding: identity"]), id="identity"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + http_answer(PICTURE), id="after 100"),
        pytest.param(http_answer(PICTURE, headers=["Content-Type: \xff;;=;", "Set-Cookie: \xe9=\x01"]), id="odd"),
    ],
)
def test_every_honest_framing_is_understood(raw: bytes) -> None:
    with BadServer(answer_with(raw)) as server:
        assert make_fetcher().fetch(server.url()) == PICTURE


@given(st.integers(0, 4), st.integers(-3, 3), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_a_packed_body_of_any_length_is_unpacked_whole(pieces: int, more: int, level: int) -> None:
    body = bytes(max(pieces * 65_536 + more, 0))
    packed = gzip.compress(body, level)
    with BadServer(answer_with(http_answer(packed, headers=["Content-Encoding: gzip"]))) as server:
        assert make_fetcher().fetch(server.url()) == body


def test_a_redirect_is_followed_relative_to_where_it_came_from() -> None:
    hops = {
        "/a/start": http_answer(status="301 Moved", headers=["Location: ../b/next?x=1#part"]),
        "/b/next?x=1": http_answer(status="308 Moved", headers=["Location: /c d/\xc3\xa9\xff.png"]),
        "/c%20d/%C3%A9%FF.png": http_answer(PICTURE),
    }
    with BadServer(answer_by_path(hops)) as server:
        assert make_fetcher().fetch(server.url("/a/start")) == PICTURE
    assert server.connections == 3


def test_ipv6_is_dialled_and_named_in_brackets() -> None:
    with BadServer(answer_with(http_answer(PICTURE)), address="::1") as server:
        assert make_fetcher().fetch(server.url()) == PICTURE
    assert f"Host: [::1]:{server.port}\r\n".encode() in server.requests[0]


def test_an_international_host_is_looked_up_by_its_ascii_name(names: Names) -> None:
    names.tell("xn--bcher-kva.example", ["127.0.0.1"])
    with BadServer(answer_with(http_answer(PICTURE))) as server:
        assert make_fetcher().fetch(f"http://Bücher.example:{server.port}/") == PICTURE
    assert b"Host: xn--bcher-kva.example:" in server.requests[0]


def test_many_threads_share_one_fetcher() -> None:
    bodies = {f"/{n}": http_answer(str(n).encode() * 5000) for n in range(40)}
    fetcher = make_fetcher()
    with BadServer(answer_by_path(bodies)) as server, ThreadPoolExecutor(16) as pool:
        fetched = list(pool.map(lambda n: fetcher.fetch(server.url(f"/{n}")), range(40)))
    assert fetched == [str(n).encode() * 5000 for n in range(40)]


# What a URL may be


@pytest.mark.parametrize(
    "url",
    [
        "",
        "picture.png",
        "//example.com/a.png",
        "/etc/passwd",
        "example.com/a.png",
        "file:///etc/passwd",
        "ftp://example.com/a.png",
        "gopher://example.com/",
        "data:image/png;base64,AAAA",
        "javascript:alert(1)",
        "http:/example.com/",
        "http:example.com",
        "http://",
        "http:///a.png",
        "http://:80/",
        "http://user@example.com/",
        "http://user:password@example.com/",
        "http://@example.com/",
        "http://example.com:80@127.0.0.1/",
        "http://example.com\\@127.0.0.1/",
        "http://example.com:port/",
        "http://example.com:99999/",
        "http://example.com:-1/",
        "http://[::1",
        "http://[::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://127.0.0.1%2f.example.com/",
        "http://%31%32%37.0.0.1/",
        "http://example.com/a b.png",
        " http://example.com/",
        "http://example.com/\n",
        "http://exam\tple.com/",
        "http://example.com/\r\nHost: other",
        "http://example.com/\x00",
        "http://example.com/\x7f",
        "http://example.com/\x85",
        "http://example.com/\ud800",
        "http://example.com\uff0f@127.0.0.1/",
        "http://example.com/" + "a" * MAX_URL_CHARS,
    ],
)
def test_a_url_is_refused_by_its_text_alone(url: str, names: Names) -> None:
    with pytest.raises(errors.InvalidImageUrl):
        parse_url(url)
    with pytest.raises(errors.InvalidImageUrl):
        make_fetcher().fetch(url)
    assert names.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "http://" + "a" * 64 + ".example/",
        "http://a..example/",
        "http://.example/",
        "http://*.example/",
        "http://xn--\u00fc.example/",
        "http://exa\\mple/",
        "http://[v1.x]/",
        "http://[1.2.3.4]/",
    ],
)
def test_a_host_that_no_name_can_have_is_an_invalid_url(url: str) -> None:
    with pytest.raises(errors.InvalidImageUrl):
        make_fetcher().fetch(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/" + "a" * (MAX_URL_CHARS - 20),
        "HTTP://EXAMPLE.com:8080/%20?a=@b#c@d",
        "https://b\u00fccher.example/\u00e9\U0001f469\u200d\U0001f52c.png",
        "http://[2606:4700::1]/",
    ],
)
def test_an_ordinary_url_passes(url: str) -> None:
    parse_url(url)


# Where it may go


SPELLINGS = [
    "127.0.0.1",
    "2130706433",
    "0x7f000001",
    "017700000001",
    "0177.0.0.1",
    "0x7f.1",
    "0x7f.0x0.0x0.0x1",
    "127.1",
    "127.0.1",
    "127.00000.000.00001",
    "0",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "2852039166",
    "168.63.129.16",
    "100.100.100.200",
    "224.0.0.1",
    "255.255.255.255",
    "[::]",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::127.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b:1::127.0.0.1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
    "[2a00:1450:4001:80b:0:5efe:127.0.0.1]",
    "[fe80::1]",
    "[fec0::1]",
    "[fd00:ec2::254]",
    "[ff02::1]",
    "[2001:db8::1]",
]


@pytest.mark.parametrize("host", SPELLINGS)
def test_no_spelling_of_a_private_address_is_dialled(host: str) -> None:
    with BadServer(answer_with(http_answer(PICTURE)), address="0.0.0.0") as server:
        fetcher = make_fetcher(allow_private_addresses=False)
        with pytest.raises(errors.AddressNotAllowed) as refused:
            fetcher.fetch(server.url(host=host))
    assert server.connections == 0
    assert refused.value.detail
    assert "resolved" not in refused.value.message


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1.",
        "0177.0.0.1.",
        "127.0.0.1%00.example.com",
        "127%2e0%2e0%2e1",
        "\uff11\uff12\uff17.0.0.1",
        "127\u30020\u30020\u30021",
        "\u2460\u2461\u2466.0.0.1",
        "127.0.0.1\\.example.com",
    ],
)
def test_a_spelling_that_no_resolver_reads_leads_nowhere(host: str) -> None:
    with BadServer(answer_with(http_answer(PICTURE))) as server:
        fetcher = make_fetcher(allow_private_addresses=False)
        with pytest.raises((errors.AddressNotAllowed, errors.InvalidImageUrl, errors.ImageFetchFailed)):
            fetcher.fetch(server.url(host=host))
    assert server.connections == 0


@pytest.mark.parametrize("answers", [["127.0.0.1"], ["10.0.0.7", "::1"], ["fd00:ec2::254"], ["::ffff:127.0.0.1"]])
def test_a_name_for_a_private_address_is_refused_and_the_address_kept_secret(names: Names, answers: list[str]) -> None:
    names.tell("innocent.example", answers)
    with pytest.raises(errors.AddressNotAllowed) as refused:
        make_fetcher(allow_private_addresses=False).fetch("http://innocent.example/")
    assert all(answer not in refused.value.message for answer in answers)
    assert refused.value.detail is not None
    assert answers[0] in refused.value.detail


@pytest.mark.usefixtures("public_2")
@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "[::1]", "inside.example"])
def test_a_redirect_from_public_to_private_is_refused(names: Names, host: str) -> None:
    names.tell("public.example", ["127.0.0.2"])
    names.tell("inside.example", ["127.0.0.1"])
    with ExitStack() as stack:
        inside = stack.enter_context(BadServer(answer_with(http_answer(PICTURE))))
        outside = stack.enter_context(BadServer(redirect_to(f"http://{host}:{inside.port}/"), address="127.0.0.2"))
        with pytest.raises(errors.AddressNotAllowed):
            make_fetcher(allow_private_addresses=False).fetch(outside.url(host="public.example"))
    assert outside.connections == 1
    assert inside.connections == 0


@pytest.mark.usefixtures("public_2")
def test_a_name_is_looked_up_once_so_that_it_cannot_be_rebound(names: Names) -> None:
    names.tell("rebinding.example", ["127.0.0.2"], ["127.0.0.1"])
    with BadServer(answer_with(http_answer(PICTURE)), address="127.0.0.2") as server:
        fetcher = make_fetcher(allow_private_addresses=False)
        assert fetcher.fetch(server.url(host="rebinding.example")) == PICTURE
        assert names.asked == ["rebinding.example"]
        assert f"Host: rebinding.example:{server.port}\r\n".encode() in server.requests[0]
        with pytest.raises(errors.AddressNotAllowed):
            fetcher.fetch(server.url(host="rebinding.example"))


@pytest.mark.usefixtures("public_2")
def test_of_public_and_private_addresses_only_the_public_are_dialled(names: Names) -> None:
    names.tell("mixed.example", ["127.0.0.1", "64:ff9b::7f00:2", "127.0.0.2"])
    with BadServer(answer_with(http_answer(PICTURE)), address="127.0.0.2") as public:
        with BadServer(answer_with(http_answer(b"secret")), port=public.port) as private:
            fetcher = make_fetcher(allow_private_addresses=False)
            assert fetcher.fetch(public.url(host="mixed.example")) == PICTURE
        assert private.connections == 0


def test_the_next_address_is_tried_when_the_first_refuses(names: Names) -> None:
    names.tell("two.example", ["127.0.0.3", "127.0.0.1"])
    with BadServer(answer_with(http_answer(PICTURE))) as server:
        assert make_fetcher().fetch(server.url(host="two.example")) == PICTURE


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Yield a port of 127.0.0.3 where connections are neither accepted nor refused: its queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.3", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_a_silent_first_address_leaves_time_for_the_next(names: Names, silent_port: int) -> None:
    names.tell("two.example", ["127.0.0.3", "127.0.0.1"])
    with BadServer(answer_with(http_answer(PICTURE)), port=silent_port) as server:
        fetcher = make_fetcher(timeout_s=4)
        assert fetcher.fetch(server.url(host="two.example")) == PICTURE


def test_a_silent_only_address_is_a_timeout_that_names_its_seconds(silent_port: int) -> None:
    with ended_in_time(), pytest.raises(errors.ImageFetchTimeout, match=r"0\.3 seconds"):
        make_fetcher(connect_timeout_s=0.3).fetch(f"http://127.0.0.3:{silent_port}/")


def test_waiting_for_a_silent_address_ends_with_the_caller(silent_port: int) -> None:
    leaving = iter([False] * 3)
    with ended_in_time(), pytest.raises(errors.DeadlineExceeded, match="gone"):
        make_fetcher(connect_timeout_s=60, timeout_s=60).fetch(
            f"http://127.0.0.3:{silent_port}/", deadline=Deadline(math.inf, lambda: next(leaving, True))
        )


def test_no_more_than_eight_addresses_are_dialled(names: Names) -> None:
    names.tell("scan.example", [f"127.0.0.{n}" for n in range(10, 19)])
    with (
        BadServer(answer_with(http_answer(PICTURE)), address="127.0.0.18") as ninth,
        pytest.raises(errors.ImageFetchFailed),
    ):
        make_fetcher().fetch(ninth.url(host="scan.example"))
    assert ninth.connections == 0


def test_a_port_off_the_list_is_refused_before_any_look_up(names: Names) -> None:
    fetcher = make_fetcher(allowed_ports=frozenset({80, 443}))
    for url in ("http://host.example:22/", "https://host.example:8443/"):
        with pytest.raises(errors.AddressNotAllowed, match="port"):
            fetcher.fetch(url)
    assert names.asked == []


def test_the_scheme_s_own_port_counts_when_the_url_names_none(names: Names) -> None:
    for url, others in (("http://host.example/", {443}), ("https://host.example/", {80})):
        with pytest.raises(errors.AddressNotAllowed, match="port"):
            make_fetcher(allowed_ports=frozenset(others)).fetch(url)


def test_a_redirect_to_a_port_off_the_list_is_refused() -> None:
    with BadServer(answer_with(http_answer(PICTURE))) as other, BadServer(redirect_to(other.url())) as server:
        with pytest.raises(errors.AddressNotAllowed, match=f"port {other.port}"):
            make_fetcher(allowed_ports=frozenset({server.port})).fetch(server.url())
        assert make_fetcher(allowed_ports=frozenset({server.port, other.port})).fetch(server.url()) == PICTURE


# Which hosts


ALLOWED = frozenset({"pictures.example", "*.cdn.example", "xn--bcher-kva.example"})


@pytest.mark.parametrize(
    "host", ["pictures.example", "PICTURES.example.", "a.cdn.example", "a.b.cdn.example", "B\u00dcCHER.example"]
)
def test_a_host_on_the_list_is_fetched_from(names: Names, host: str) -> None:
    for name in ("pictures.example", "pictures.example.", "a.cdn.example", "a.b.cdn.example", "xn--bcher-kva.example"):
        names.tell(name, ["127.0.0.1"])
    with BadServer(answer_with(http_answer(PICTURE))) as server:
        assert make_fetcher(allowed_hosts=ALLOWED).fetch(server.url(host=host)) == PICTURE


@pytest.mark.parametrize(
    "host",
    ["other.example", "cdn.example", "notcdn.example", "a.pictures.example", "pictures.example.net", "bucher.example",
     "127.0.0.1", "[::1]", "2130706433", "example", "localhost", "a.cdn.example.net", "xcdn.example"],
)  # fmt: skip
def test_a_host_off_the_list_is_refused_before_any_look_up(names: Names, host: str) -> None:
    with pytest.raises(errors.AddressNotAllowed, match="from the host"):
        make_fetcher(allowed_hosts=ALLOWED).fetch(f"http://{host}/")
    assert names.asked == []


def test_the_list_of_hosts_is_asked_at_every_redirect(names: Names) -> None:
    names.tell("pictures.example", ["127.0.0.1"])
    names.tell("a.cdn.example", ["127.0.0.1"])
    with ExitStack() as stack:
        last = stack.enter_context(BadServer(answer_with(http_answer(PICTURE))))
        for host, allowed in (("a.cdn.example", True), ("cdn.example", False), ("127.0.0.1", False)):
            first = stack.enter_context(BadServer(redirect_to(last.url(host=host))))
            with nullcontext() if allowed else pytest.raises(errors.AddressNotAllowed, match=host):
                make_fetcher(allowed_hosts=ALLOWED).fetch(first.url(host="pictures.example"))
    assert last.connections == 1


# Redirects


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
        tracemalloc.start()
        try:
            with pytest.raises(errors.ImageFetchFailed, match="more than 5"):
                fetcher.fetch(server.url())
            assert tracemalloc.get_traced_memory()[1] < 3_000_000
        finally:
            tracemalloc.stop()


def test_a_redirect_without_a_location_is_no_picture() -> None:
    with (
        BadServer(answer_with(http_answer(PICTURE, status="302 Found"))) as server,
        pytest.raises(errors.ImageFetchFailed, match="302"),
    ):
        make_fetcher().fetch(server.url())


# What is not kept, and not looked at


def test_a_hostile_cookie_is_not_even_read() -> None:
    hostile = http_answer(b"picture", headers=["Set-Cookie: a=b; Max-Age=" + "9" * 400])
    with BadServer(answer_with(hostile)) as server:
        assert make_fetcher().fetch(server.url()) == b"picture"


def test_cookies_are_not_sent_back() -> None:
    hop = http_answer(status="302 Found", headers=["Location: /next", "Set-Cookie: id=1; Path=/"])
    with BadServer(answer_in_turn(hop, http_answer(PICTURE))) as server:
        fetcher = make_fetcher()
        fetcher.fetch(server.url())
        fetcher.fetch(server.url())
    assert len(server.requests) == 3
    assert not any(b"cookie" in request.lower() for request in server.requests)


def test_proxy_variables_and_netrc_are_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password secret\ndefault login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))
    with (
        BadServer(answer_with(http_answer(b"proxy"))) as proxy,
        BadServer(answer_with(http_answer(PICTURE))) as server,
    ):
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url())
        monkeypatch.setenv("no_proxy", "")
        assert make_fetcher().fetch(server.url()) == PICTURE
    assert proxy.connections == 0
    assert b"authorization" not in server.requests[0].lower()


def test_a_connection_serves_one_request_only() -> None:
    with BadServer(answer_with(http_answer(PICTURE))) as server:
        fetcher = make_fetcher()
        for _ in range(3):
            fetcher.fetch(server.url())
    assert server.connections == 3


# Answers that are no picture


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451, 499])
def test_4xx_means_not_found(status: int) -> None:
    with (
        BadServer(answer_with(http_answer(status=f"{status} No"))) as server,
        pytest.raises(errors.ImageNotFound, match=str(status)),
    ):
        make_fetcher().fetch(server.url())


@pytest.mark.parametrize(
    "status", [101, 201, 202, 204, 205, 206, 226, 300, 304, 305, 408, 425, 429, 500, 502, 503, 599, 600, 999]
)
def test_any_other_status_than_200_means_failed(status: int) -> None:
    with (
        BadServer(answer_with(http_answer(b"x", status=f"{status} No"))) as server,
        pytest.raises(errors.ImageFetchFailed, match=str(status)),
    ):
        make_fetcher().fetch(server.url())


CHUNKED = f"{OK}Transfer-Encoding: chunked\r\n\r\n".encode()


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="nothing, and hangs up"),
        pytest.param(b"\r\n", id="a blank line"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 abc\r\n\r\n", id="no status"),
        pytest.param(b"HTTP/1.1 " + b"2" * 100_000, id="endless status line"),
        pytest.param(f"{OK}X: ".encode() + b"x" * 100_000 + b"\r\n\r\n", id="endless header"),
        pytest.param(f"{OK}".encode() + b"X: y\r\n" * 11_000 + b"\r\n", id="too many headers"),
        pytest.param(f"{OK}Content-Length: 10\r\n\r\nshort".encode(), id="cut body"),
        pytest.param(f"{OK}Content-Length: 5, 6\r\n\r\n12345".encode(), id="two lengths"),
        pytest.param(CHUNKED + b"5\r\nabc", id="cut chunk"),
        pytest.param(CHUNKED + b"5\r\nabcde\r\n", id="no last chunk"),
        pytest.param(CHUNKED + b"xyz\r\nabc", id="no chunk size"),
        pytest.param(CHUNKED + b"-5\r\nabcde\r\n0\r\n\r\n", id="negative chunk size"),
        pytest.param(CHUNKED + b"0" * 100_000, id="endless chunk size"),
        pytest.param(http_answer(gzip.compress(PICTURE)[:-9], headers=["Content-Encoding: gzip"]), id="cut gzip"),
        pytest.param(http_answer(PICTURE, headers=["Content-Encoding: br"]), id="no brotli"),
    ],
)
def test_broken_http_means_failed(raw: bytes) -> None:
    with BadServer(answer_with(raw)) as server, pytest.raises(errors.ImageFetchFailed):
        make_fetcher().fetch(server.url())


def test_an_unknown_host_means_failed() -> None:
    with pytest.raises(errors.ImageFetchFailed, match="host name"):
        make_fetcher().fetch("http://nowhere.example/")


def test_a_refused_connection_means_failed_and_shows_no_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(errors.ImageFetchFailed) as failed:
        make_fetcher().fetch(f"http://127.0.0.1:{port}/")
    assert "127.0.0.1" not in failed.value.message


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_for(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return a maker of server contexts whose certificates a new fetcher trusts."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))

    def context(*hosts: str) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*hosts).configure_cert(made)
        return made

    return context


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


# The one deadline


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


@pytest.fixture
def stuck_resolver(names: Names, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let look-ups hang until the test is over, but those of names that are told."""
    over = threading.Event()

    def hang(host: str, *arguments: Any, **options: Any) -> list[Any]:
        if host in names.answers:
            return names.getaddrinfo(host, *arguments, **options)
        over.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "at last")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    yield
    over.set()
    for thread in look_ups():
        thread.join(5)


def look_ups() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "dns-look-up"]


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


# The number of bytes


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
        tracemalloc.start()
        try:
            with pytest.raises(error):
                fetcher.fetch(server.url())
            assert tracemalloc.get_traced_memory()[1] < 4_000_000
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate"])
def test_a_bomb_is_unpacked_no_further_than_the_limit(coding: str) -> None:
    bomb = gzip_bomb(50_000_000)
    with BadServer(answer_with(http_answer(bomb, headers=[f"Content-Encoding: {coding}"]))) as server:
        fetcher = make_fetcher(max_bytes=1_000_000)
        tracemalloc.start()
        try:
            with pytest.raises(errors.ImageTooLarge):
                fetcher.fetch(server.url())
            assert tracemalloc.get_traced_memory()[1] < 5_000_000
        finally:
            tracemalloc.stop()


# Nothing stays behind


def test_neither_threads_nor_sockets_stay_behind() -> None:
    redirect = http_answer(status="302 Found", headers=["Location: http://[::1"])
    cut = f"{OK}Content-Length: 10\r\n\r\nshort".encode()
    answers = [http_answer(PICTURE), cut, http_answer(status="404 No"), redirect, b"", http_answer(bytes(2_000_000))]
    fetcher = make_fetcher()
    with BadServer(answer_in_turn(*answers * 10)) as server:
        before = open_files()
        for _ in range(60):
            with suppress(errors.CaptioningError):
                fetcher.fetch(server.url())
        server.end_clients()
        assert open_files() == before
    assert look_ups() == []


def test_a_server_that_keeps_the_connection_open_is_hung_up_on() -> None:
    hung_up = threading.Event()

    def keep_open(connection: Connection) -> None:
        connection.read_request()
        connection.send(http_answer(PICTURE, headers=["Connection: keep-alive"]))
        if connection.client.recv(1) == b"":
            hung_up.set()

    with BadServer(keep_open) as server:
        assert make_fetcher().fetch(server.url()) == PICTURE
        assert hung_up.wait(10)


def test_the_size_of_each_piece_is_told_before_it_is_kept() -> None:
    told: list[int] = []

    def refuse(size: int) -> None:
        told.append(size)
        raise errors.Overloaded

    with BadServer(answer_with(http_answer(PICTURE))) as server:
        make_fetcher().fetch(server.url(), on_bytes=told.append)
        assert sum(told) == len(PICTURE)
        with pytest.raises(errors.Overloaded):
            make_fetcher().fetch(server.url(), on_bytes=refuse)


# Whatever comes


marks = r"http:// https:// HTTP: // / : @ [ ] ::1 % %00 %25 127.0.0.1 0x7f.1 a .. xn-- - * \ ? # & ; :80 :0 :99999"
url_pieces = st.sampled_from(marks.split(" ")) | st.sampled_from("\u3002\uff0e\u00ad\u00df\u0130\ud800")


@given(st.text() | st.lists(url_pieces | st.text(max_size=3), max_size=8).map(lambda p: "http://" + "".join(p)))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example("http://xn--\u00ad.example/")
@example("http://[::1]:/")
@example("http://a:" + "9" * 5000)
def test_any_url_is_refused_with_an_error_of_ours(url: str) -> None:
    with pytest.raises(errors.CaptioningError):
        make_fetcher(allow_private_addresses=False).fetch(url)


status_lines = st.sampled_from(
    [
        "HTTP/1.1 200 OK",
        "HTTP/1.0 200",
        "HTTP/2 200",
        "HTTP/1.1 302 Found",
        "HTTP/1.1 404 No",
        "HTTP/1.1 100 C",
        "HTTP/1.1 000",
        "HTTP/1.1 -1 x",
    ]
)
header_names = st.sampled_from(
    [
        "Content-Length",
        "Transfer-Encoding",
        "Content-Encoding",
        "Location",
        "Set-Cookie",
        "Content-Type",
        "Connection",
        "X",
        "",
        " ",
    ]
)
odd_values = ["0", "5", "-1", "5, 5", "5,6", "9" * 5000, "/x", "http://[::1", "\xff", "\x0b", "a\r\n b", '"']
coding_values = ["chunked", "gzip, chunked", "gzip", "deflate", "br", "gzip,gzip", "close", "keep-alive"]
type_values = ["text/html; charset=\xff", "multipart/x; boundary=", "a=b; expires=\xff; max-age=9" + "9" * 400]
header_values = st.sampled_from(odd_values + coding_values + type_values) | st.text(
    st.characters(max_codepoint=255), max_size=12
)
bodies = st.binary(max_size=40) | st.sampled_from(
    [
        b"5\r\nabcde\r\n0\r\n\r\n",
        b"-1\r\nx",
        b"1_0\r\nx",
        b"0\r\n" + b"a" * 70_000,
        gzip.compress(b"x"),
    ]
)
raw_answers = st.builds(
    lambda line, headers, body: "\r\n".join([line, *headers, "", ""]).encode("latin-1") + body,
    status_lines,
    st.lists(st.builds("{}: {}".format, header_names, header_values), max_size=5),
    bodies,
)


@pytest.fixture(scope="module")
def parrot() -> Iterator[tuple[BadServer, list[bytes]]]:
    """Yield a server that says once whatever was put on its list, and 404 ever after."""
    lines: list[bytes] = []

    def behave(connection: Connection) -> None:
        connection.read_request()
        connection.send(lines.pop() if lines else http_answer(status="404 No"))

    with BadServer(behave) as server:
        yield server, lines


@given(raw_answers | st.binary(max_size=200))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_answer_is_bytes_or_an_error_of_ours(parrot: tuple[BadServer, list[bytes]], raw: bytes) -> None:
    server, lines = parrot
    lines[:] = [raw]
    try:
        assert isinstance(make_fetcher().fetch(server.url()), bytes)
    except errors.CaptioningError as error:
        assert error.message  # noqa: PT017
        assert not re.search(r"127\.0\.0\.1|Traceback|urllib3|object at 0x", error.message)  # noqa: PT017


def test_a_deadline_that_comes_as_the_connection_is_made_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[LimitedSocket] = []

    def come(dialled: LimitedSocket, deadline: Deadline, max_bytes: int) -> None:
        made.append(dialled)
        raise errors.ImageFetchTimeout

    monkeypatch.setattr(LimitedSocket, "limit", come)
    with BadServer(say_nothing) as server, pytest.raises(errors.ImageFetchTimeout):
        make_fetcher().fetch(server.url())
    assert [dialled.fileno() for dialled in made] == [-1]
