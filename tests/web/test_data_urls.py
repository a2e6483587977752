"""data: URLs are read as the Fetch Standard reads them; each row is a sentence of it, or follows from one."""

from __future__ import annotations

import random
from urllib.parse import unquote_to_bytes

import pytest

from captioning.errors import InvalidImageUrl
from captioning.web.data_urls import decode_base64, decode_data_url, percent_decode

HELLO = "aGVsbG8="  # "hello"


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{HELLO}",
        f"data:image/png; base64,{HELLO}",
        f"data:image/png;   base64,{HELLO}",
        f"data:image/png;base64 ,{HELLO}",
        f"data: image/png ;base64  ,{HELLO}",
        f"DATA:IMAGE/PNG;BASE64,{HELLO}",
        f"data:image/png;charset=utf-8;base64,{HELLO}",
        f"data:image/png;name=a.png;charset=x;base64,{HELLO}",
        f"data:;base64,{HELLO}",
        f"data:;base64;base64,{HELLO}",
        f"data:base64;base64,{HELLO}",
        "data:image/png;base64,aGVsbG8",
        "data:image/png;base64,aGVsbG8%3D",
        "data:image/png;base64,%61%47%56sbG8%3d",
        "data:image/png;base64,aGVs\r\nbG8=\r\n",
        "data:image/png;base64,aGVs bG8%20%3D%0A%0C",
        "data:image/png;ba\nse64,aGVsbG8=",
        f"data:image/png;base64,{HELLO}#fragment",
        "data:image/png;base64,aGVsbG9=",  # the bits that are left over do not count
        "data:,hello",
        "data:hello,hello",
        "data:image/png,hel%6Co",
        "data:text/plain;charset=utf-16,hello",
    ],
)
def test_a_url_is_read_as_browsers_read_it(url: str) -> None:
    assert decode_data_url(url) == b"hello"


@pytest.mark.parametrize(
    ("url", "content"),
    [
        ("data:;base64;,aGVs", b"aGVs"),  # base64 must come last
        ("data:;base64;charset=x,aGVs", b"aGVs"),
        ("data:;base64=x,aGVs", b"aGVs"),
        ("data:base64,aGVs", b"aGVs"),  # and after a semicolon
        ("data:;base 64,aGVs", b"aGVs"),
        ("data:;%62ase64,aGVs", b"aGVs"),  # the head's escapes stay
        ("data:%3Bbase64,aGVs", b"aGVs"),
        ('data:text/plain;a=",",X', b'",X'),  # the first comma ends the head, quoted or not
        ("data:,a b%", b"a b%"),
        ("data:,%zz%4", b"%zz%4"),
        ("data:,€%FF", "€".encode() + b"\xff"),
        ("data:,", b""),
        ("data:;base64,", b""),
    ],
)
def test_what_is_not_base64_is_the_text_itself(url: str, content: bytes) -> None:
    assert decode_data_url(url) == content


@pytest.mark.parametrize(
    "data",
    ["a", "aGVsb", "=", "==", "====", "a=", "ab=", "ab===", "abc==", "abcd=", "a=bc", "=abc", "ab=c=", "ab-_", "€"],
)
def test_broken_base64_is_refused(data: str) -> None:
    with pytest.raises(InvalidImageUrl, match="does not hold valid base64: it "):
        decode_data_url(f"data:image/png;base64,{data}")


def test_a_url_without_a_comma_is_refused() -> None:
    for url in ("data:", "data:image/png;base64", f"data:image/png;base64{HELLO}", "data:image/png#,a"):
        with pytest.raises(InvalidImageUrl, match="has no comma"):
            decode_data_url(url)


def test_valid_base64_of_every_length_comes_back() -> None:
    assert decode_base64(b"") == b""
    for text, content in ((b"/w", b"\xff"), (b"/w==", b"\xff"), (b"//8", b"\xff\xff"), (b"\t/\f/\n8 =\r", b"\xff\xff")):
        assert decode_base64(text) == content


def test_escapes_that_a_piece_s_end_would_cut_are_undone_too() -> None:
    chance = random.Random(0)
    for length in (0, 1, 8_190, 8_191, 8_192, 8_193, 16_385):
        for _ in range(20):
            data = bytes(chance.choices(b"%4a", k=length))
            assert percent_decode(data) == unquote_to_bytes(data)
