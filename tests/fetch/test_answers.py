"""HTTP as its standard has it and as servers send it: heads, interim answers, statuses, ends of bodies."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from captioning import errors
from tests.bad_servers import BadServer, answer_with, flood, http_answer
from tests.fetch.local import make_fetcher, memory_under

pytestmark = pytest.mark.usefixtures("names")

PICTURE = bytes(range(256)) * 40
LENGTH = f"Content-Length: {len(PICTURE)}"


def fetched(raw: bytes) -> bytes:
    with BadServer(answer_with(raw)) as server:
        return make_fetcher().fetch(server.url())


def failure(raw: bytes) -> errors.CaptioningError:
    with pytest.raises(errors.CaptioningError) as failed:
        fetched(raw)
    return failed.value


# ---- interim answers


@pytest.mark.parametrize(
    "status", ["100 Continue", "102 Processing", "103 Early Hints", "104 Upload Resumption", "199", "150 x"]
)
@pytest.mark.parametrize("times", [1, 3, 100])
def test_interim_answers_are_read_over(status: str, times: int) -> None:
    interim = f"HTTP/1.1 {status}\r\nLink: </style.css>; rel=preload\r\nContent-Length: 7\r\n\r\n".encode()
    assert fetched(interim * times + http_answer(PICTURE)) == PICTURE


def test_different_interim_answers_are_read_over() -> None:
    interim = b"".join(b"HTTP/1.1 %d\r\n\r\n" % status for status in (100, 102, 103, 103, 110))
    assert fetched(interim + http_answer(PICTURE)) == PICTURE


def test_interim_answers_come_before_a_redirect_too() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    with BadServer(answer_with(early + http_answer(status="302 Found", headers=["Location: /x"]))) as server:
        with pytest.raises(errors.ImageFetchFailed, match="redirects more than"):
            make_fetcher().fetch(server.url())
        assert server.connections == 6


@pytest.mark.parametrize("wave", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"])
def test_interim_answers_without_end_end_at_a_number(wave: bytes) -> None:
    with BadServer(flood(b"", wave)) as server, pytest.raises(errors.ImageFetchFailed, match="interim"):
        make_fetcher(max_bytes=100_000_000).fetch(server.url())


def test_another_protocol_is_no_interim_answer() -> None:
    assert "101" in failure(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n" + http_answer(PICTURE)).message


# ---- heads


@pytest.mark.parametrize("number", [100, 101, 500, 3000])
def test_many_header_lines_are_read(number: int) -> None:
    assert fetched(http_answer(PICTURE, headers=[f"X-{n}: value" for n in range(number)])) == PICTURE
    assert fetched(http_answer(PICTURE, headers=["Set-Cookie: a=b"] * number)) == PICTURE


@pytest.mark.parametrize("line", [b"X: y\r\n", b"X: " + b"y" * 70_000 + b"\r\n", b"X\n", b" folded\r\n", b"\xff" * 100])
def test_headers_end_at_a_number_of_bytes(line: bytes) -> None:
    with BadServer(flood(b"HTTP/1.1 200 OK\r\n", line)) as server:
        fetcher = make_fetcher()
        with memory_under(4_000_000), pytest.raises(errors.ImageFetchFailed, match="65,536 bytes of headers"):
            fetcher.fetch(server.url())


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(f"HTTP/1.1 200 OK\n{LENGTH}\n\n", id="LF only"),
        pytest.param(f"HTTP/1.1 200 OK\r\n{LENGTH}\n\r\n", id="LF among CRLF"),
        pytest.param(f"\r\n\r\nHTTP/1.1 200 OK\r\n{LENGTH}\r\n\r\n", id="blank lines first"),
        pytest.param(f"HTTP/1.1 200\r\n{LENGTH}\r\n\r\n", id="no reason phrase"),
        pytest.param(f"HTTP/1.1 200 \r\n{LENGTH}\r\n\r\n", id="an empty reason phrase"),
        pytest.param(f"HTTP/1.1  200  Tr\xe8s bien \x01\r\n{LENGTH}\r\n\r\n", id="any reason phrase"),
        pytest.param(f"http/1.1 200 ok\r\n{LENGTH}\r\n\r\n", id="lower case"),
        pytest.param(f"HTTP/1.0 200 OK\r\n{LENGTH}\r\n\r\n", id="HTTP/1.0"),
        pytest.param("HTTP/1.0 200 OK\r\n\r\n", id="HTTP/1.0 without headers"),
        pytest.param(f"HTTP/2 200\r\n{LENGTH}\r\n\r\n", id="HTTP/2 by name"),
        pytest.param(f"HTTP/1.1 200 OK\r\nno colon\r\n{LENGTH}\r\n\r\n", id="a line without a colon"),
        pytest.param(f"HTTP/1.1 200 OK\r\n: no name\r\n{LENGTH}\r\n\r\n", id="a line without a name"),
        pytest.param(f"HTTP/1.1 200 OK\r\n folded from nothing\r\n{LENGTH}\r\n\r\n", id="a fold first"),
        pytest.param(f"HTTP/1.1 200 OK\r\nContent-Length :\r\n\t {len(PICTURE)}\r\n\r\n", id="a fold, a space"),
        pytest.param(f"HTTP/1.1 200 OK\r\nX: \x00\x0b\x85\x1e\rY: z\r\n{LENGTH}\r\n\r\n", id="controls"),
        pytest.param(f"HTTP/1.1 200 OK\r\ncontent-LENGTH:{len(PICTURE)}\r\n\r\n", id="any case, no space"),
        pytest.param(f"HTTP/1.1 200 OK\r\n{LENGTH}\r\n{LENGTH}\r\n\r\n", id="one length twice"),
        pytest.param(f"HTTP/1.1 200 OK\r\n{LENGTH}, {len(PICTURE)}\r\n\r\n", id="one length twice in a line"),
        pytest.param(
            f"HTTP/1.1 200 OK\r\n{LENGTH}\r\nContent-Length: 0{len(PICTURE)}\r\n\r\n", id="one length, two forms"
        ),
        pytest.param(f"HTTP/1.1 200 OK\r\nContent-Length:\r\n{LENGTH}\r\n\r\n", id="an empty length beside one"),
        pytest.param("HTTP/1.1 200 OK\r\nContent-Length: unknown\r\n\r\n", id="no number for a length"),
        pytest.param("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", id="a length below nothing"),
        pytest.param("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", id="an empty length"),
        pytest.param("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n", id="identity"),
        pytest.param("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\n", id="no length on a connection kept alive"),
        pytest.param(f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{LENGTH}\r\n\r\n", id="another type"),
        pytest.param(f"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Type: c\r\n{LENGTH}\r\n\r\n", id="two types"),
        pytest.param(
            f"HTTP/1.1 200 OK\r\nLocation: /elsewhere\r\n{LENGTH}\r\n\r\n", id="a location without a redirect"
        ),
        pytest.param(f"HTTP/1.1 203 Non-Authoritative Information\r\n{LENGTH}\r\n\r\n", id="203"),
    ],
)
def test_a_head_is_read_as_servers_send_it(head: str) -> None:
    assert fetched(head.encode("latin-1") + PICTURE) == PICTURE


CHUNKS = b"5\r\nabcde\r\n3;name=value\r\nfgh\r\n0\r\nX-Trailer: a\r\n\r\n"


@pytest.mark.parametrize(
    "lines",
    [
        ["Transfer-Encoding: chunked"],
        ["transfer-encoding:CHUNKED"],
        ["Transfer-Encoding: identity, chunked"],
        ["Transfer-Encoding: identity", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding:\t chunked , "],
        ["Transfer-Encoding: chunked", "Content-Length: 3"],
        ["Content-Length: 3", "Content-Length: 99999", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: nonsense"],
        ["Transfer-Encoding: utf-8, chunked"],
    ],
)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_chunks_tell_the_length_whatever_else_does(lines: list[str], version: str) -> None:
    head = "\r\n".join([f"HTTP/{version} 200 OK", *lines, "", ""])
    assert fetched(head.encode() + CHUNKS) == b"abcdefgh"


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param(CHUNKS.replace(b"\r\n", b"\n"), id="LF only"),
        pytest.param(CHUNKS.replace(b"5\r\n", b"0005 \r\n"), id="zeros and spaces"),
        pytest.param(CHUNKS.replace(b"5\r\n", b"0" * 30 + b"5\r\n"), id="many zeros"),
        pytest.param(b"8\r\nabcdefgh\r\n0", id="no line at the end"),
        pytest.param(b"8\r\nabcdefgh\r\n0\r\n\r\ntrash", id="more than the end"),
        pytest.param(
            b"".join(b"1;%d\r\n%c\r\n" % (n, c) for n, c in enumerate(b"abcdefgh")) + b"0\r\n\r\n", id="small"
        ),
        pytest.param(CHUNKS[:-2] + b"Content-Length: 1\r\n" * 50 + b"\r\n", id="trailers"),
    ],
)
def test_chunks_are_read_as_servers_send_them(chunks: bytes) -> None:
    assert fetched(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks) == b"abcdefgh"


@pytest.mark.parametrize(
    "start", [b"", b"5;", b"5\r\nabcde\r\n", b"0\r\n"], ids=["size", "extension", "after", "trailer"]
)
def test_a_line_between_chunks_ends_at_a_number_of_bytes(start: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with BadServer(flood(head + start, b"0" * 65_536)) as server:
        fetcher = make_fetcher(max_bytes=10_000_000)
        with memory_under(1_000_000), pytest.raises(errors.ImageFetchFailed, match="4,096 bytes"):
            fetcher.fetch(server.url())


def test_a_packed_body_may_be_announced_by_its_length_before() -> None:
    """As browsers allow: the packed body tells itself where it ends."""
    packed = gzip.compress(PICTURE)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n{LENGTH}\r\n\r\n".encode()
    assert fetched(head + packed) == PICTURE
    assert failure(head + packed[:-1]).code == "image_fetch_failed"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        pytest.param(b"", "closed the connection", id="nothing"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: y\r\n", "closed the connection", id="half a head"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\n\r\n", "closed the connection", id="an interim answer only"),
        pytest.param(b"<html>hello</html>\n", "not answer in HTTP", id="HTTP/0.9"),
        pytest.param(PICTURE, "not answer in HTTP", id="a bare picture"),
        pytest.param(b"ICY 200 OK\r\n\r\n" + PICTURE, "not answer in HTTP", id="Shoutcast"),
        pytest.param(b"RTSP/1.0 200 OK\r\n\r\n", "not answer in HTTP", id="RTSP"),
        pytest.param(b"HTTP/1.1\r\n\r\n", "not answer in HTTP", id="no status"),
        pytest.param(b"HTTP/1.1 20\r\n\r\n", "not answer in HTTP", id="two digits"),
        pytest.param(b"HTTP/1.1 2000\r\n\r\n", "not answer in HTTP", id="four digits"),
        pytest.param(b"HTTP/1.1 099\r\n\r\n", "not answer in HTTP", id="a status below 100"),
        pytest.param(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03", "closed|not answer in HTTP", id="HTTP/2"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n123456", "two lengths", id="lengths"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", "ended the image early", id="cut"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "ended the image early", id="cut chunk"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n", "ended the image early", id="no end"
        ),
    ],
)
def test_what_is_no_whole_answer_is_told_in_a_sentence(raw: bytes, said: str) -> None:
    failed = failure(raw)
    assert failed.code == "image_fetch_failed"
    assert any(part in failed.message for part in said.split("|"))


# ---- statuses


@pytest.mark.parametrize(
    "header", ["bytes 0-10239/10240", "bytes 0-10239/10240 ", "Bytes  0-10239/10240", "bytes=0-10239/10240"]
)
def test_a_range_that_is_the_whole_is_a_picture(header: str) -> None:
    answer = http_answer(PICTURE, status="206 Partial Content", headers=[f"Content-Range: {header}"])
    assert fetched(answer) == PICTURE


@pytest.mark.parametrize(
    "headers",
    [
        [],
        ["Content-Range: bytes 0-10239/20000"],
        ["Content-Range: bytes 1-10240/10241"],
        ["Content-Range: bytes 0-10239/*"],
        ["Content-Range: bytes */10240"],
        ["Content-Range: pages 0-10239/10240"],
        ["Content-Type: multipart/byteranges; boundary=a"],
    ],
)
def test_a_part_of_a_picture_is_none(headers: list[str]) -> None:
    failed = failure(http_answer(PICTURE, status="206 Partial Content", headers=headers))
    assert (failed.status, failed.code) == (502, "image_fetch_failed")
    assert "part of the image" in failed.message


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (204, "no content"),
        (205, "no content"),
        (300, "several images"),
        (304, "known"),
        (201, "no image"),
        (202, "no image"),
        (302, "does not say where"),
        (307, "does not say where"),
        (306, "no image"),
    ],
)
def test_a_status_that_brings_no_picture_says_why(status: int, said: str) -> None:
    failed = failure(http_answer(b"", status=f"{status} x"))
    assert failed.code == "image_fetch_failed"
    assert str(status) in failed.message
    assert said in failed.message


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520, 599])
def test_what_may_pass_is_not_final(status: int) -> None:
    failed = failure(http_answer(status=f"{status} x"))
    assert (failed.status, failed.code, failed.retry_after_s) == (502, "image_fetch_failed", None)
    told = failure(http_answer(status=f"{status} x", headers=["Retry-After: 7"]))
    assert (told.code, told.retry_after_s) == ("image_fetch_failed", 7)


def test_a_picture_that_is_not_ready_yet_may_be_asked_for_when_its_server_says() -> None:
    assert failure(http_answer(status="202 Accepted", headers=["Retry-After: 7"])).retry_after_s == 7


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 418, 421, 451])
def test_what_is_final_is_not_asked_for_again(status: int) -> None:
    failed = failure(http_answer(status=f"{status} x", headers=["Retry-After: 7"]))
    assert (failed.status, failed.code, failed.retry_after_s) == (422, "image_not_found", None)


NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 1),
        ("1", 1),
        (" 120 ", 120),
        ("3600", 3600),
        ("86400", 3600),
        ("9" * 400, 3600),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        ((NOW + timedelta(seconds=90)).strftime("%A, %d-%b-%y %H:%M:%S GMT"), 90),  # RFC 850
        ((NOW + timedelta(seconds=90)).strftime("%a %b %e %H:%M:%S %Y"), 90),  # asctime
        (format_datetime(NOW - timedelta(days=9), usegmt=True), 1),
        (format_datetime(NOW + timedelta(days=9), usegmt=True), 3600),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("\u0661".encode().decode("latin-1"), None),
        ("Fri, 99 Foo 2030 99:99:99 GMT", None),
    ],
)
def test_retry_after_is_passed_on_within_bounds(value: str, seconds: float | None) -> None:
    headers = [f"Date: {format_datetime(NOW, usegmt=True)}", f"Retry-After: {value}"]
    assert failure(http_answer(status="503 Busy", headers=headers)).retry_after_s == seconds


def test_a_date_to_come_back_counts_from_now_where_the_server_tells_no_time() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=600), usegmt=True)
    told = failure(http_answer(status="429 Slow down", headers=[f"Retry-After: {later}"])).retry_after_s
    assert told is not None
    assert 500 < told <= 600
