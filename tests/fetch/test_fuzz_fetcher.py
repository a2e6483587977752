"""The fetcher against damaged HTTP and twisted URLs: bytes or a refusal, soon, from nowhere private."""

from __future__ import annotations

import gc
import gzip
import ipaddress
import os
import socket
import struct
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, NamedTuple

import brotli
import pytest
from backports import zstd
from hypothesis import event, given, note, settings
from hypothesis import strategies as st

from captioning.errors import CaptioningError
from captioning.fetch import destinations
from captioning.fetch.addresses import is_public_unicast
from captioning.fetch.fetcher import Fetcher
from tests.bad_servers import BadServer, Connection, gzip_bomb, http_answer
from tests.conftest import examples
from tests.mutations import ODD_TEXTS, mutated

pytestmark = pytest.mark.fuzz

MAX_BYTES = 100_000
TIMEOUT_S = 0.3
PATIENCE_S = 20
"""What a busy machine may add; whoever waits for a server that never ends waits for ever."""
# The fetcher reads twice MAX_BYTES and a MiB at most; headers stand in memory several times while they are parsed.
MEMORY_BYTES = 8 * 2**20
# What the kernel takes from a server that floods before the fetcher has read it.
SOCKET_BYTES = 32 * 2**20


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Fail if a thread or a socket outlives the block."""

    def left() -> tuple[set[str], set[threading.Thread]]:
        gc.collect()
        files = {_target(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")}
        return {file for file in files if file.startswith("socket:")}, set(threading.enumerate())

    sockets, threads = left()
    yield
    end = time.monotonic() + PATIENCE_S
    while not (left()[0] <= sockets and left()[1] <= threads):
        assert time.monotonic() < end, left()
        time.sleep(0.05)


def _target(link: str) -> str:
    with suppress(OSError):
        return os.readlink(link)
    return ""


@cache
def make_fetcher(**changes: Any) -> Fetcher:
    options: dict[str, Any] = {
        "connect_timeout_s": TIMEOUT_S,
        "timeout_s": TIMEOUT_S,
        "max_redirects": 3,
        "max_bytes": MAX_BYTES,
        "allowed_ports": None,
        "allow_private_addresses": True,
        "allowed_hosts": frozenset(),
        "user_agent": "tests/1.0",
    }
    return Fetcher(**options | changes)


# ---- damaged HTTP

PICTURE = bytes(range(256)) * 4
PACKED = gzip.compress(PICTURE, mtime=0)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SOUND_ANSWERS = [
    http_answer(PICTURE),
    http_answer(PICTURE, headers=["Content-Type: image/png", "Set-Cookie: a=b; expires=0", "Connection: close"]),
    http_answer(PICTURE, length=False),
    b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n" + http_answer(PICTURE),
    CHUNKED + b"5\r\nabcde\r\n3;a=b\r\nfgh\r\n0\r\n\r\n",
    CHUNKED + b"5\r\nabcde\r\n0\r\nX-Trailer: a\r\nContent-Length: 3\r\n\r\n",
    http_answer(PACKED, headers=["Content-Encoding: gzip"]),
    http_answer(zlib.compress(PICTURE), headers=["Content-Encoding: deflate"]),
    http_answer(zlib.compress(PICTURE)[2:-4], headers=["Content-Encoding: Deflate"]),
    http_answer(brotli.compress(PICTURE), headers=["Content-Encoding: br"]),
    http_answer(zstd.compress(PICTURE) * 3, headers=["Content-Encoding: zstd"]),
    http_answer(brotli.compress(bytes(20_000_000)), headers=["Content-Encoding: br"]),
    http_answer(zstd.compress(bytes(20_000_000)), headers=["Content-Encoding: utf-8"]),
    http_answer(gzip.compress(brotli.compress(PACKED)), headers=["Content-Encoding: gzip, br, gzip"]),
    http_answer(PACKED * 3 + b"trash", headers=["Content-Encoding: none, aws-chunked"]),
    http_answer(gzip.compress(gzip.compress(b"") * 20_000)),
    http_answer(PICTURE, status="206 Partial Content", headers=[f"Content-Range: bytes 0-1023/{len(PICTURE)}"]),
    http_answer(status="503 Busy", headers=["Retry-After: Fri, 31 Dec 2027 23:59:59 GMT", "Date: now"]),
    http_answer(status="302 Found", headers=["Location: \\\\127.0.0.1:1\\..\\x?y#z"]),
    http_answer(gzip_bomb(20_000_000), headers=["Content-Encoding: gzip"]),
    http_answer(gzip_bomb(20_000_000, layers=2), headers=["Content-Encoding: gzip, gzip"]),
    http_answer(PACKED[:-5], headers=["Content-Encoding: x-gzip", "Transfer-Encoding: gzip, chunked"], length=False),
    http_answer(status="404 Not Found"),
    http_answer(b"a" * 3000, status="302 Found", headers=["Location: /again?a=b#c"]),
    http_answer(status="308 Permanent Redirect", headers=["Location: //127.0.0.1:1/", "Location: /b"]),
    b"HTTP/1.0 200 OK\r\n" + b"X-Header: a\r\n" * 90 + b"\r\n" + PICTURE,
    b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-5/*\r\nContent-Length: 5\r\n\r\nabcde",
]
FLOODS = [
    b"x" * 65_536,
    b"X-Header: a\r\n" * 5000,
    b"HTTP/1.1 100 Continue\r\n\r\n" * 2000,
    b"1\r\na\r\n" * 8000,
    b"0" * 9999,
]


class Script(NamedTuple):
    """How a server behaves: what it says to one connection after the other, how it says it, and how it ends."""

    answers: list[bytes]
    cuts: list[int]
    end: str
    wave: bytes

    def play(self, connection: Connection) -> None:
        connection.read_request()
        answer = self.answers.pop(0) if self.answers else http_answer(status="404 Not Found")
        for cut in self.cuts:
            connection.send(answer[:cut])
            answer = answer[cut:]
            time.sleep(0.001)
        connection.send(answer)
        if self.end == "reset":
            connection.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        while self.end in ("flood", "drip"):
            connection.send(self.wave if self.end == "flood" else self.wave[:1])
            time.sleep(0.02 if self.end == "drip" else 0)
        if self.end == "hang":
            connection.client.recv(1)  # returns when the other side hangs up


scripts = st.builds(
    Script,
    answers=st.lists(
        mutated(SOUND_ANSWERS, ODD_TEXTS, max_edits=3) | st.sampled_from(SOUND_ANSWERS) | st.binary(max_size=300),
        min_size=1,
        max_size=4,
    ),
    cuts=st.lists(st.integers(0, 100), max_size=3),
    # Whoever waits for the deadline takes that long.
    end=st.sampled_from([*["close"] * 40, "reset", "reset", "flood", "hang", "drip"]),
    wave=st.sampled_from(FLOODS),
)


@pytest.fixture(scope="module")
def stage() -> Iterator[tuple[BadServer, list[Script]]]:
    """Yield a server, and the list whose first script it plays."""
    playing: list[Script] = []
    with nothing_left_behind(), BadServer(lambda connection: playing[0].play(connection)) as server:
        yield server, playing


@given(scripts)
@settings(max_examples=examples(400))
def test_a_damaged_answer_is_fetched_or_refused(stage: tuple[BadServer, list[Script]], script: Script) -> None:
    note(repr(script))
    server, playing = stage
    playing[:] = [script]
    told: list[int] = []
    fetcher = make_fetcher()
    sent = server.bytes_sent
    begun = time.monotonic()
    tracemalloc.start()
    try:
        body = fetcher.fetch(server.url(), on_bytes=told.append)
        assert len(body) <= sum(told) <= 4 * MAX_BYTES  # brotli and zstd keep what they have unpacked, layer by layer
        event("fetched")
    except CaptioningError as error:
        assert 400 <= error.status <= 504  # noqa: PT017
        assert error.message.isprintable()  # noqa: PT017
        assert sum(told) <= 4 * MAX_BYTES
        event(error.code)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.monotonic() - begun < TIMEOUT_S + PATIENCE_S
    assert peak < MEMORY_BYTES
    assert server.bytes_sent - sent < SOCKET_BYTES


# ---- twisted URLs

PUBLIC = ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001::200e"]
HERE = "127.0.0.2"
"""The address that stands for a public server of a stranger's."""
PRIVATE = [
    *("127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "192.0.0.192"),
    *("::1", "::", "::ffff:127.0.0.1", "::ffff:0:10.0.0.1", "::127.0.0.1", "fe80::1", "fc00::1", "fd00:ec2::254"),
    *("64:ff9b::a00:1", "2002:7f00:1::", "2001:0:7f00:1::", "fec0::1", "ff02::1", "2001:db8::1", "224.0.0.1"),
]
# Networks that embed an IPv4 address, which Python's own is_global of some versions lets pass.
TRANSLATED = [ipaddress.ip_network(text) for text in ("::/96", "64:ff9b::/32", "2002::/16", "2001::/23", "fec0::/10")]
NAMES = ("public.example", "private.example", "rebinding.example", "localhost", "xn--mnchen-3ya.example")

some_addresses = st.sampled_from(PUBLIC + PRIVATE * 3)
addresses = some_addresses | some_addresses | st.ip_addresses().map(str)


def is_private(address: str) -> bool:
    """Judge by the standard library's registry, which captioning.fetch.addresses does not use."""
    parsed = ipaddress.ip_address(address)
    return not parsed.is_global or parsed.is_multicast or any(parsed in network for network in TRANSLATED)


def _spellings(address: str) -> list[str]:
    """Write an address as resolvers and browsers have been seen to read it."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return [
            f"[{address}]",
            f"[{address}]",
            f"[{parsed.exploded}]",
            f"[{address}%25eth0]",
            f"[{address}%1]",
            f"[v1.{address}]",
        ]
    numbers = list(parsed.packed)
    return [
        *(
            address,
            address,
            address,
            str(int(parsed)),
            hex(int(parsed)),
            f"0{int(parsed):o}",
            f"{address}.",
            f"[{address}]",
        ),
        *(".".join(map(hex, numbers)), ".".join(f"0{number:o}" for number in numbers), f"{numbers[0]}.{numbers[3]}"),
        *(address.replace(".", "\u3002"), address.replace("1", "\uff11"), address.replace(".", "%2e")),
        *(f"[::ffff:{address}]", f"[::{address}]", f"[64:ff9b::{address}]", f"a@{address}", f"{address}\\@8.8.8.8"),
    ]


hosts = addresses.flatmap(lambda address: st.sampled_from(_spellings(address))) | st.sampled_from(NAMES)
URLS = [
    *(b"http://public.example:PORT/a?b=c#d", b"HTTP://private.example:80/", b"http://rebinding.example:443"),
    *(
        b"//private.example/",
        b"/a/../b",
        b"?a",
        b"http:private.example",
        b"http:/\\private.example/",
        b"https://[::1]/",
    ),
    *(b"http://public.example:PORT\\@127.0.0.1/", b"http://127.0.0.1#@public.example:PORT/", b"file:///etc/passwd"),
]
URL_TEXTS = [host.encode() for address in PRIVATE for host in _spellings(address)] + ODD_TEXTS
urls = mutated(URLS, URL_TEXTS).map(lambda url: url.decode("utf-8", "surrogateescape")) | st.builds(
    "{}://{}{}/a".format, st.sampled_from(["http", "https"]), hosts, st.sampled_from(["", ":80", ":PORT", ":22", ":0"])
)


class Dials:
    """Note every connection that anything in this process asks the kernel for, and let only those to HERE through."""

    def __init__(self) -> None:
        self.made: list[tuple[str, int]] = []
        self.listening = False
        # An audit hook cannot be removed; it sees what no replaced function would.
        sys.addaudithook(self._audit)

    def _audit(self, name: str, arguments: tuple[Any, ...]) -> None:
        if self.listening and name == "socket.connect":
            where = arguments[1]
            self.made.append((str(where[0]), int(where[1])))
            if where[0] != HERE:
                raise ConnectionRefusedError("no connection leaves the tests")


class Internet:
    """What names lead to, and where a public server redirects."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}
        self.redirects: list[bytes] = []
        self.dials = Dials()
        self.server = BadServer(self.redirect, address=HERE)
        self._getaddrinfo = socket.getaddrinfo

    def getaddrinfo(self, host: str, port: int, **_: Any) -> list[Any]:
        """Know some names, of which one changes its address with each look-up, and numbers as the system reads them."""
        found = self.names.get(host, [host])
        if host == "rebinding.example" and host in self.names:
            found.append(found.pop(0))
            found = found[-1:]
        numeric = socket.AI_NUMERICHOST
        return [entry for address in found for entry in self._getaddrinfo(address, port, 0, 1, 0, numeric)]

    def redirect(self, connection: Connection) -> None:
        if not connection.client.recv(65_536).startswith(b"GET "):
            return  # TLS, of which there are other tests
        target = self.redirects.pop(0) if self.redirects else b""
        head = b"HTTP/1.1 302 Found\r\nLocation: " + target if target else b"HTTP/1.1 200 OK"
        connection.send(head + b"\r\nContent-Length: 0\r\n\r\n")


@pytest.fixture(scope="module")
def internet() -> Iterator[Internet]:
    """Let everything outside of the process be as an example has it, and watch what is dialled."""
    with nothing_left_behind(), pytest.MonkeyPatch.context() as patch:
        internet = Internet()
        patch.setattr(socket, "getaddrinfo", internet.getaddrinfo)
        patch.setattr(destinations, "is_public_unicast", lambda a: a == HERE or is_public_unicast(a))
        with internet.server:
            internet.dials.listening = True
            yield internet
            internet.dials.listening = False


@given(
    st.just("http://public.example:PORT/") | urls,
    st.lists(urls, max_size=2),
    st.dictionaries(st.sampled_from(NAMES[1:]), st.lists(addresses, min_size=1)),
)
@settings(max_examples=examples(400))
def test_no_url_leads_to_a_private_address(
    internet: Internet, url: str, redirects: list[str], names: dict[str, list[str]]
) -> None:
    note(f"{url!r} {redirects!r} {names!r}")
    port = internet.server.port
    ports = frozenset({80, 443, port})
    internet.names = {**names, "public.example": [HERE]}
    internet.redirects = [to.replace("PORT", str(port)).encode("utf-8", "surrogateescape") for to in redirects]
    internet.dials.made.clear()
    try:
        make_fetcher(allow_private_addresses=False, allowed_ports=ports).fetch(url.replace("PORT", str(port)))
        event("fetched")
    except CaptioningError as error:
        event(error.code)
    for address, dialled_port in internet.dials.made:
        assert dialled_port in ports
        assert address == HERE or not is_private(address)
    event(f"{len(internet.dials.made)} connections, {len(redirects) - len(internet.redirects)} redirects")


@given(st.ip_addresses().map(str) | addresses)
@settings(max_examples=examples(300))
def test_the_filter_knows_every_address_that_the_standard_library_calls_private(address: str) -> None:
    assert not (is_public_unicast(address) and is_private(address))
