"""Whatever a URL or an answer is, what comes of it is bytes or an error of ours."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from captioning import errors
from captioning.deadline import Deadline
from captioning.fetch.limited_socket import LimitedSocket
from tests.bad_servers import (
    BadServer,
    Connection,
    http_answer,
    say_nothing,
)
from tests.fetch.local import make_fetcher

pytestmark = pytest.mark.usefixtures("names")


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
