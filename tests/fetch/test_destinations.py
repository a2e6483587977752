"""Where a stranger's URL may lead: hosts, addresses and ports, at every redirect."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext

import pytest

from captioning import errors
from captioning.deadline import Deadline
from captioning.fetch.urls import MAX_URL_CHARS, parse_url
from tests.bad_servers import (
    BadServer,
    answer_with,
    http_answer,
    redirect_to,
)
from tests.fetch.local import PICTURE, Names, ended_in_time, make_fetcher

pytestmark = pytest.mark.usefixtures("names")


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
