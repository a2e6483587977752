"""Forms as browsers and clients send them, and as those who mean harm do."""

from __future__ import annotations

import base64
import tracemalloc

import pytest

from captioning.errors import InvalidRequest, MissingImage
from captioning.web.forms import Form, form_memory, parse_form
from tests.web.requests_of import multipart, request_of

MIB = 1024 * 1024
PICTURE = b"\xff\xd8\xff\xe0 a picture \r\n--y\r\n\x00"


def parsed(*parts: tuple[str, bytes]) -> Form:
    return parse_form(request_of("multipart/form-data; boundary=x"), multipart(*parts))


@pytest.mark.parametrize(
    "head",
    [
        'Content-Disposition: form-data; name="image"; filename="a.jpg"\r\nContent-Type: image/jpeg',
        'Content-Disposition: form-data; name="image"',  # Node's form-data with a Buffer; curl -F 'image=<a.jpg'
        "Content-Disposition: form-data; name=image; filename=a.jpg",  # .NET
        'Content-Disposition: form-data; name="image"; filename=""',
        'content-disposition: form-data; filename="image"; name="image"\r\nContent-Type: text/plain; charset=utf-8',
        'Content-Disposition: form-data; name="image"; filename="\xe4.jpg"',
        'Content-Disposition: form-data; name="image"; filename="a"; filename*=utf-8\'\'%e2%82%ac',
        'Content-Type: image/jpeg\r\nContent-Disposition: form-data; name="image"\r\nContent-Length: 23',
        'Content-Disposition: form-data; name="image"\r\nContent-Transfer-Encoding: binary',
        'Content-Disposition: form-data; name="image"\r\nContent-Transfer-Encoding: 8bit\r\nX-Own: a',
        'Content-Disposition: form-data; name="image"\r\nContent-Transfer-Encoding: base64',  # which it is not
    ],
)
def test_a_part_named_image_is_the_picture(head: str) -> None:
    assert parsed((head, PICTURE)).images == [PICTURE]


def test_base64_that_is_announced_is_undone() -> None:
    head = 'Content-Disposition: form-data; name="image"; filename="a"\r\nContent-Transfer-Encoding: Base64'
    assert parsed((head, base64.encodebytes(PICTURE))).images == [PICTURE]


def test_what_is_empty_is_not_given() -> None:
    form = parsed(
        ('Content-Disposition: form-data; name="image"; filename=""\r\nContent-Type: application/octet-stream', b""),
        ('Content-Disposition: form-data; name="imageUrl"', b" https://example.com/a.jpg\r\n"),
        ('Content-Disposition: form-data; name="numBeams"', b""),
        ('Content-Disposition: form-data; name="attachment"; filename=""', b""),
    )
    assert form == Form(texts=[("imageUrl", "https://example.com/a.jpg")])


def test_a_url_that_was_appended_as_a_blob_is_a_text() -> None:
    blob = 'Content-Disposition: form-data; name="imageUrl"; filename="blob"'
    assert parsed((blob, b"https://a.example/")) == Form(texts=[("imageUrl", "https://a.example/")])
    assert parsed((blob, b"\xff\xd8\xff")) == Form(other_files=["imageUrl"])


def test_every_picture_and_file_is_told() -> None:
    form = parsed(
        ('Content-Disposition: form-data; name="image"; filename="a"', b"first"),
        ('Content-Disposition: form-data; name="image"', b"second"),
        ('Content-Disposition: form-data; name="file"; filename="b"', b"third"),
        ("Content-Disposition: form-data", b"fourth"),
    )
    assert form == Form(texts=[("", "fourth")], images=[b"first", b"second"], other_files=["file"])


@pytest.mark.parametrize(
    ("body", "texts"),
    [
        (b"imageUrl=https%3A%2F%2Fexample.com%2Fa+b%2B&prompt=a+dog&numBeams=", "https://example.com/a b+"),
        (b"imageUrl=https://example.com/a?b=c", "https://example.com/a?b=c"),
        (b"imageUrl=%ff", "\ufffd"),
        ("imageUrl=é".encode(), "é"),
        (b"imageUrl=data:image/png;base64,a+b/cd==", "data:image/png;base64,a+b/cd=="),
        (b"imageUrl=data%3Aimage%2Fpng%3B+base64%2Ca%2Bb", "data:image/png; base64,a+b"),
        (b"&&imageUrl=a&=b&c", "a"),
    ],
)
def test_pairs_are_read(body: bytes, texts: str) -> None:
    form = parse_form(request_of("application/x-www-form-urlencoded"), body)
    assert dict(form.texts)["imageUrl"] == texts
    assert "numBeams" not in dict(form.texts)


DISPOSITION = 'Content-Disposition: form-data; name="image"'


@pytest.mark.parametrize(
    "boundary",
    [
        "------------------------d74496d66958873e",  # curl
        "----WebKitFormBoundary7MA4YWxkTrZu0gW",
        "----formdata-undici-012345678901",  # Node's own FormData
        "===============8823450217346==",  # Python's email
        "----=_Part_4_(5):6,7/8?9'+.Ab",
        "'in single quotes'",
        "Aa@[b]<c>",  # against RFC 2046, as some send it all the same
        "a b",
        "x" * 300,
        "\xfc",
    ],
)
def test_a_boundary_is_taken_whole_in_quotes_or_without(boundary: str) -> None:
    picture = b"%s\r\n--%s" % (PICTURE, boundary[:-1].encode("latin-1"))
    body = multipart((DISPOSITION, picture), boundary="BOUNDARY").replace(b"BOUNDARY", boundary.encode("latin-1"))
    for written in (f"boundary={boundary}", f'BOUNDARY = "{boundary}" ; charset=utf-8', f"a=b;boundary={boundary};"):
        assert parse_form(request_of(f"multipart/form-data; {written}"), body).images == [picture]


def test_escapes_in_a_quoted_boundary_are_undone() -> None:
    request = request_of(r'multipart/form-data; boundary="a\"b;\\c"')
    assert parse_form(request, multipart((DISPOSITION, PICTURE), boundary='a"b;\\c')).images == [PICTURE]


@pytest.mark.parametrize(
    "head",
    [
        DISPOSITION + "\r\nA: b" * 9,
        DISPOSITION + "\r\nA: b" * 2_000_000,
        DISPOSITION + "\r\nA: " + "b" * 5_000_000,
        DISPOSITION + "; a=b" * 1_000_000,
        DISPOSITION + "\r\n" + "A" * 5_000,
    ],
    ids=["nine lines", "two million lines", "a long line", "many parameters", "a long name"],
)
def test_a_part_s_headers_are_bounded_in_number_and_bytes(head: str) -> None:
    body = multipart((head, PICTURE))
    tracemalloc.start()
    with pytest.raises(InvalidRequest, match="header lines or one over 4,096 bytes"):
        parse_form(request_of("multipart/form-data; boundary=x"), body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MIB


def test_parts_and_fields_are_bounded_in_number() -> None:
    with pytest.raises(InvalidRequest, match="more than 21 parts"):
        parsed(*[('Content-Disposition: form-data; name="a"', b"")] * 22)
    with pytest.raises(InvalidRequest, match="more than 21 fields"):
        parse_form(request_of("application/x-www-form-urlencoded"), b"a&" * 21)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data; boundary=x", multipart((DISPOSITION, bytes(10 * MIB)))),
        ("multipart/form-data; boundary=x", multipart((DISPOSITION.replace("image", "imageUrl"), b"A" * 10 * MIB))),
        ("application/x-www-form-urlencoded", b"imageUrl=" + b"%41" * MIB),
        ("application/x-www-form-urlencoded", b"imageUrl=" + b"A+" * 5 * MIB),
        ("application/x-www-form-urlencoded", b"imageUrl=data:,A" + b"A%41+" * (MIB // 2)),
        (
            "multipart/form-data; boundary=x",
            multipart(('Content-Disposition: form-data; name="imageUrl"; filename="blob"', b"a" * (4 * MIB))),
        ),
    ],
    ids=["a picture", "a text", "escapes", "spaces", "a data: URL", "a Blob"],
)
def test_no_more_memory_is_taken_than_is_charged(content_type: str, body: bytes) -> None:
    request = request_of(content_type)
    tracemalloc.start()
    form = parse_form(request, body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert form.texts or form.images
    assert peak <= form_memory(request, body) + MIB
    if form.images:
        assert peak < 1.3 * len(body)  # the picture stands twice: in the body and by itself


def test_a_long_text_is_not_made_four_times_as_long_by_one_wide_character() -> None:
    with pytest.raises(InvalidRequest, match='field "prompt" is too long: 1,048,580 bytes'):
        parsed(('Content-Disposition: form-data; name="prompt"', b"A" * MIB + "😀".encode()))


@pytest.mark.parametrize(
    ("content_type", "body", "sentence"),
    [
        ("multipart/form-data", multipart((DISPOSITION, b"a")), "has no boundary; let the client write"),
        ("multipart/form-data; boundary=", multipart((DISPOSITION, b"a")), "has no boundary; let the client write"),
        ("multipart/form-data; boundary=y", multipart((DISPOSITION, b"a")), "does not stand in the form"),
        ("multipart/form-data; boundary=x", multipart((DISPOSITION, b"a"))[:-10], "cut short"),
        ("multipart/form-data; boundary=x", multipart((DISPOSITION, b"a" * 99))[:90], "cut short"),
        (
            "multipart/form-data; boundary=x",
            multipart(("Content-Type: image/png", b"a")),
            "Missing Content-Disposition",
        ),
        ("multipart/form-data; boundary=x", multipart(("", b"a")), "Missing Content-Disposition"),
        ("multipart/form-data; boundary=x", multipart((DISPOSITION.replace("form-data", "file"), b"a")), "Wrong type"),
        (
            "multipart/form-data; boundary=x",
            multipart(("nonsense", b"a")),
            "Malformed segment header.; each part needs",
        ),
        ("multipart/form-data; boundary=x", multipart((DISPOSITION, b"a")).replace(b"\r", b""), "each part needs"),
        ("multipart/form-data; boundary=x", b"", "The form is empty"),
        ("multipart/form-data; boundary=x", b'{"imageUrl": "a"}', "Content-Type: application/json"),
        ("multipart/form-data; boundary=x", PICTURE, "Content-Type: image/jpeg"),
        ("application/x-www-form-urlencoded", b'{"imageUrl": "a&b"}', "-H 'Content-Type: application/json'"),
        ("application/x-www-form-urlencoded", b'  ["a"]', "-H 'Content-Type: application/json'"),
        ("application/x-www-form-urlencoded", PICTURE + b"&" * 99, "-H 'Content-Type: image/jpeg'"),
        ("application/x-www-form-urlencoded", b"RIFF\0\0\0\0WEBPVP8 ", "-H 'Content-Type: image/webp'"),
        ("application/x-www-form-urlencoded", multipart((DISPOSITION, b"a")), "is a form of parts"),
        ("application/x-www-form-urlencoded", b"<!DOCTYPE html><html>", "is an HTML page"),
        ("application/x-www-form-urlencoded", b"\x1f\x8b\x08\0", "compressed with gzip"),
    ],
)
def test_what_is_no_form_is_told_what_it_is(content_type: str, body: bytes, sentence: str) -> None:
    with pytest.raises((InvalidRequest, MissingImage), match=sentence) as refusal:
        parse_form(request_of(content_type), body)
    assert refusal.value.status == 400
