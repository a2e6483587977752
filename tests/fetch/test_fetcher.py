"""The fetcher against real sockets: what it fetches, what it does not keep, and what is no picture."""

from __future__ import annotations

import errno
import gzip
import socket
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioning import errors
from captioning.fetch.limited_socket import LimitedSocket
from tests.bad_servers import (
    BadServer,
    Connection,
    answer_by_path,
    answer_in_turn,
    answer_with,
    http_answer,
)
from tests.fetch.local import CHUNKED, OK, PICTURE, Names, look_ups, make_fetcher, open_files

pytestmark = pytest.mark.usefixtures("names")


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


def test_a_lack_of_descriptors_is_not_the_image_servers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(LimitedSocket, "connect_ex", connect)
    with pytest.raises(errors.Overloaded) as refused:
        make_fetcher().fetch("http://127.0.0.1:9/")
    assert refused.value.retry_after_s is not None
