"""Which picture a request means, with which options, and what those are told whose request means none."""

from __future__ import annotations

import base64
import json
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest

from captioning.errors import (
    CaptioningError,
    ImageTooLarge,
    InvalidImageUrl,
    InvalidParameter,
    MissingImage,
    UnsupportedContentType,
    UnsupportedImage,
)
from captioning.model.engine import GenerationOptions
from captioning.web.caption_request import CaptionRequest, parse_caption_request, parse_captions_request, parsing_memory
from tests.conftest import SAMPLES
from tests.web.requests_of import multipart, request_of

PICTURE = SAMPLES[0].read_bytes()
BASE64 = base64.b64encode(PICTURE).decode()
URL = "https://example.com/a.jpg"
DEFAULTS = GenerationOptions(max_new_tokens=7, num_beams=2)


def parsed(
    content_type: str | None, body: bytes, *, query: str = "", **headers: str
) -> tuple[str | bytes, CaptionRequest]:
    request = request_of(content_type, query=query, **headers)
    return parse_caption_request(request, body, DEFAULTS, max_image_bytes=100_000)


def of_json(**fields: Any) -> tuple[str | bytes, CaptionRequest]:
    return parsed("application/json", json.dumps(fields).encode())


def of_form(*parts: tuple[str, bytes]) -> tuple[str | bytes, CaptionRequest]:
    heads = ((f"Content-Disposition: form-data; name={name}", content) for name, content in parts)
    return parsed("multipart/form-data; boundary=x", multipart(*heads))


def refusal(kind: type[CaptioningError], content_type: str | None, body: bytes, **headers: str) -> str:
    with pytest.raises(kind) as refused:
        parsed(content_type, body, **headers)
    assert type(refused.value) is kind
    assert refused.value.message.isprintable()
    return refused.value.message


def test_what_is_empty_or_null_is_not_given() -> None:
    expected = (URL, CaptionRequest(DEFAULTS))
    for empty in ("", None, "  "):
        assert of_json(imageUrl=URL, prompt=empty, numBeams=empty, maxNewTokens=empty, unknown=empty) == expected
    nothing = [("prompt", b""), ("numBeams", b""), ("maxNewTokens", b" "), ('image; filename=""', b"")]
    assert of_form(("imageUrl", URL.encode()), *nothing) == expected
    assert parsed("application/x-www-form-urlencoded", f"imageUrl={URL}&numBeams=&prompt".encode()) == expected
    assert of_form(('image; filename="a"', PICTURE), ("imageUrl", b""), *nothing[:3])[0] == PICTURE
    assert parsed("image/jpeg", PICTURE, query="numBeams=&prompt=") == (PICTURE, CaptionRequest(DEFAULTS))


def test_options_in_the_query_hold_for_every_body_and_yield_to_those_in_it() -> None:
    query = "numBeams=3&prompt=a+dog&unknown=1"
    expected = GenerationOptions(prompt="a dog", max_new_tokens=7, num_beams=3)
    body = json.dumps({"imageUrl": URL}).encode()
    assert parsed("application/json", body, query=query)[1].options == expected
    assert parsed("image/jpeg", PICTURE, query=query)[1].options == expected
    assert parsed("application/x-www-form-urlencoded", f"imageUrl={URL}".encode(), query=query)[1].options == expected
    body = json.dumps({"imageUrl": URL, "numBeams": 1}).encode()
    assert parsed("application/json", body, query=query)[1].options.num_beams == 1


@pytest.mark.parametrize("charset", ["", "; charset=utf-8", "; charset=UTF-8; odata=verbose"])
def test_json_is_known_by_its_type(charset: str) -> None:
    body = json.dumps({"imageUrl": f"data:image/jpeg;base64,{BASE64}"}).encode()
    for kind in ("application/json", "Application/JSON", "application/vnd.api+json"):
        assert parsed(kind + charset, body)[0] == PICTURE


@pytest.mark.parametrize(
    "parts",
    [
        [("image", PICTURE), ("image", PICTURE)],
        [("image", PICTURE), ("imageUrl", URL.encode())],
        [("imageUrl", URL.encode()), ("imageUrl", URL.encode())],
    ],
)
def test_two_pictures_are_refused(parts: list[tuple[str, bytes]]) -> None:
    with pytest.raises(InvalidParameter, match="holds more than one picture"):
        of_form(*parts)


MISNAMED = "image_url imageURL ImageUrl imageurl image-url url image img image[] imageLink photo src fileUrl whatever"


@pytest.mark.parametrize("name", MISNAMED.split())
def test_a_url_under_another_name_is_told_the_right_one(name: str) -> None:
    body = json.dumps({"prompt": "https://a dog", name: URL}).encode()
    assert f'given as "{name}"; the field must be named imageUrl' in refusal(MissingImage, "application/json", body)
    form = f"{name}={URL}".encode()
    assert "must be named imageUrl" in refusal(MissingImage, "application/x-www-form-urlencoded", form)


def test_other_mistakes_in_names_are_told_the_right_one() -> None:
    for field in ({"image": {"url": URL}}, {"images": [URL]}, {"image": BASE64}, {"ima\x07ge": URL}):
        sentence = refusal(MissingImage, "application/json", json.dumps(field).encode())
        assert sentence.endswith("the field must be named imageUrl.")
    several = json.dumps({"imageUrls": [URL]}).encode()
    assert "POST /local-captions" in refusal(MissingImage, "application/json", several)
    one = json.dumps({"imageUrl": URL}).encode()
    with pytest.raises(MissingImage, match="POST /local-caption; here send imageUrls"):
        parse_captions_request(request_of("application/json"), one, DEFAULTS)
    for name in ("file", "picture", "Image", "image[]"):
        body = multipart((f'Content-Disposition: form-data; name="{name}"; filename="a.jpg"', PICTURE))
        assert f'named "{name}"; name it image' in refusal(MissingImage, "multipart/form-data; boundary=x", body)
    assert refusal(MissingImage, "application/json", b'{"prompt": "a dog"}') == MissingImage.sentence


def test_a_part_without_a_name_is_told_to_have_one() -> None:
    for head in ("", "; name*=utf-8''image", "; filename=a.jpg", "; name*=utf-8''image; filename=a.jpg"):
        body = multipart((f"Content-Disposition: form-data{head}", PICTURE))
        assert " has no name" in refusal(MissingImage, "multipart/form-data; boundary=x", body)


FIVE, HUNDRED = "it must be a whole number from 1 to 5", "it must be a whole number from 1 to 100"


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("numBeams", '"3"', f'numBeams is "3"; {FIVE}, without quotes.'),
        ("numBeams", "2.5", f"numBeams is 2.5; {FIVE}."),
        ("numBeams", "9", f"numBeams is 9; {FIVE}."),
        ("numBeams", "true", f"numBeams is true; {FIVE}."),
        ("numBeams", "[1, 2]", f"numBeams is a list of length 2; {FIVE}."),
        ("numBeams", "{}", f"numBeams is an object; {FIVE}."),
        ("maxNewTokens", "1e2", f"maxNewTokens is 100.0; {HUNDRED}."),
        ("maxNewTokens", "9" * 4000, f"maxNewTokens is a very large number; {HUNDRED}."),
        ("noRepeatNgramSize", "-1", "noRepeatNgramSize is -1; it must be a whole number from 0 to 100."),
        ("repetitionPenalty", "NaN", "repetitionPenalty is NaN; it must be a number from 0.1 to 10."),
        ("repetitionPenalty", "-Infinity", "repetitionPenalty is -Infinity; it must be a number from 0.1 to 10."),
        ("repetitionPenalty", "1e-308", "repetitionPenalty is 1e-308; it must be a number from 0.1 to 10."),
        ("repetitionPenalty", "0.09", "repetitionPenalty is 0.09; it must be a number from 0.1 to 10."),
        ("details", '"true"', 'details is "true"; it must be true or false, without quotes.'),
        ("prompt", "5", "prompt is 5; it must be a text of at most 500 characters."),
        (
            "prompt",
            f'"{501 * "a"}"',
            "prompt is a text of 501 characters; it must be a text of at most 500 characters.",
        ),
        ("candidates", "3", "candidates is 3; it must be at most numBeams, which is 2."),
        ("imageUrls", '"a"', 'imageUrls is "a"; it must be a list of 1 to 64 URLs.'),
        ("imageUrls", '["a", ["b"]]', "imageUrls[1] is a list of length 1; it must be a URL, as a string."),
        ("imageUrls", '["a", "b", null]', "imageUrls[2] is null; it must be a URL, as a string."),
        ("imageUrls", json.dumps(["a"] * 65), "imageUrls is a list of length 65; it must be a list of 1 to 64 URLs."),
    ],
)
def test_a_wrong_value_is_told_with_its_field_and_what_may_stand_there(field: str, value: str, sentence: str) -> None:
    fields = {"imageUrls": '["a"]', field: value}
    body = ",".join(f'"{name}": {value}' for name, value in fields.items())
    with pytest.raises(InvalidParameter) as refused:
        parse_captions_request(request_of("application/json"), f"{{{body}}}".encode(), DEFAULTS)
    assert refused.value.message == sentence


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("numBeams=three", f'numBeams is "three"; {FIVE}.'),
        ("numBeams=%D9%A3", f'numBeams is "\u0663"; {FIVE}.'),
        ("numBeams=%00", f'numBeams is "\\u0000"; {FIVE}.'),
        ("repetitionPenalty=inf", 'repetitionPenalty is "inf"; it must be a number from 0.1 to 10.'),
        ("repetitionPenalty=1,2", 'repetitionPenalty is "1,2"; it must be a number from 0.1 to 10.'),
        ("details=perhaps", 'details is "perhaps"; it must be true or false.'),
        ("maxNewTokens=" + "9" * 5000, f"maxNewTokens is a text of 5,000 characters; {HUNDRED}."),
    ],
)
def test_a_wrong_text_of_a_form_or_a_query_is_told_likewise(given: str, sentence: str) -> None:
    form = "application/x-www-form-urlencoded"
    assert refusal(InvalidParameter, form, f"imageUrl={URL}&{given}".encode()) == sentence
    with pytest.raises(InvalidParameter) as refused:
        parsed("image/jpeg", PICTURE, query=given)
    assert refused.value.message == sentence


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (URL.encode(), "holds a URL; send it in a field named imageUrl"),
        (f" data:image/jpeg;base64,{BASE64}".encode(), "holds a URL; send it in a field named imageUrl"),
        (BASE64.encode(), "holds base64; send the bytes themselves"),
    ],
)
def test_a_text_in_the_picture_s_place_is_told_its_own(content: bytes, sentence: str) -> None:
    with pytest.raises(MissingImage, match=sentence):
        of_form(("image", content))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (f'"{URL}"', "quotation marks or brackets around the URL"),
        (f"'{URL}'", "quotation marks or brackets around the URL"),
        (f'"data:image/jpeg;base64,{BASE64}"', "quotation marks or brackets around the URL"),
        (f"![a picture]({URL})", "quotation marks or brackets around the URL"),
        (f'<img src="{URL}">', "holds HTML"),
        (f"&lt;<img src='{URL}'>", "holds HTML"),
        (BASE64, "bare base64; make it a data: URL, with data:image/jpeg;base64, in front"),
        (BASE64.replace("+", "-").replace("/", "_"), "bare base64"),
        ("iVBORw0KGgoAAAANSUhEUg==", "bare base64"),
        (f"image/jpeg;base64,{BASE64}", "write data:image/jpeg;base64, in front"),
        (f"base64,{BASE64}", "write data:image/jpeg;base64, in front"),
        ("https%3A%2F%2Fexample.com%2Fa.jpg", "percent-encoded as a whole"),
        ("blob:https://example.com/0b9e", "known only to the page"),
        ("file:///home/me/a.jpg", "names a file"),
        (r"C:\Users\me\a.jpg", "names a file"),
        ("c:/a.jpg", "names a file"),
        (r"\\server\share\a.jpg", "names a file"),
        ("/home/me/a.jpg", "a path without a host"),
        ("./a.jpg", "a path without a host"),
        ("~/a.jpg", "a path without a host"),
        ("uploads/a.jpg", "a path without a host"),
        ("my photo.JPEG", "a path without a host"),
        ("@a.jpg", "a path without a host"),
        ("example.com/a.jpg", "put https:// in front"),
        ("www.example.co.uk:8443/a?b", "put https:// in front"),
        ("localhost:8000/a.jpg", "put https:// in front"),
        ("93.184.216.34/a.jpg", "put https:// in front"),
        ("example.com", "put https:// in front"),
        ("//example.com/a.jpg", "put https: in front"),
        ("https:/example.com/a.jpg", "a colon and two slashes"),
        ("https//example.com/a.jpg", "a colon and two slashes"),
        (f"https://{URL}", "twice; once is enough"),
        ("http://https//example.com/a.jpg", "twice; once is enough"),
        (f"\u200b{URL}", "maybe invisible, in front"),
        (f"\ufeff{URL}", "maybe invisible, in front"),
        (f"URL: {URL}", "in front of http:// or https://"),
        (f"url({URL})", "in front of http:// or https://"),
        (f"view-source:{URL}", "in front of http:// or https://"),
        (f"data:image/jpeg,{BASE64}", "holds base64, but not after ;base64,"),
        (f"data:base64,{BASE64}", "holds base64, but not after ;base64,"),
        (f"data:image/jpeg;base64;,{BASE64}", "holds base64, but not after ;base64,"),
        (f"data:image/jpeg;base64,data:image/jpeg;base64,{BASE64}", "it holds ':' where base64"),
        (f"data:image/jpeg;base64,b'{BASE64}'", "it holds \"'\" where base64"),
        ("data:image/jpeg;base64,_9j_4AAQ", "it holds '_' where base64"),
        ("data:image/jpeg;base64,[object Object]", r"it holds '\[' where base64"),
        ("s3://bucket/a.jpg", "a signed https:// URL"),
        ("gs://bucket/a.jpg", "a signed https:// URL"),
        ("ftp://example.com/a.jpg", "other schemes are not fetched"),
        ("undefined", "a variable without a URL"),
        ("[object Object]", "a variable without a URL"),
        ("a red car", "is not a URL; it must start with http:// or https://"),
        ("https://exam ple.com/a.jpg", "a space in its host's name"),
        ("https://example.com/a b.jpg", "holds a space; write it as %20"),
        ("https://example.com/a.jpg https://example.com/b.jpg", "holds several URLs"),
        ("https://example.com/a.jpg\r\nHTTPS://example.com/b.jpg", "holds several URLs"),
        ("https://example.com:99999/a.jpg", "no valid port; that is a number up to 65535"),
        (["https://example.com/a.jpg"], "imageUrl is a list; .* imageUrls to POST /local-captions"),
        ({"url": "https://example.com/a.jpg"}, "imageUrl is an object"),
        (5, "imageUrl is 5; it must be a string"),
        (True, "imageUrl is true; it must be a string"),
    ],
)  # fmt: skip
def test_what_is_no_url_is_told_what_it_is(value: object, sentence: str) -> None:
    with pytest.raises(InvalidImageUrl, match=sentence):
        of_json(imageUrl=value)


def test_a_wrong_content_type_is_told_the_right_one() -> None:
    body = json.dumps({"imageUrl": URL}).encode()
    for content_type in ("text/plain", "text/plain;charset=UTF-8", "application/octet-stream", "text/json", None):
        assert refusal(UnsupportedContentType, content_type, body).endswith("-H 'Content-Type: application/json'.")
        assert "-H 'Content-Type: image/jpeg'" in refusal(UnsupportedContentType, content_type, PICTURE)
    assert "-H 'Content-Type: application/json'" in refusal(UnsupportedImage, "image/jpeg", body)
    assert "is a form of parts" in refusal(UnsupportedImage, "image/jpeg", multipart(("Content-Type: a", PICTURE)))
    assert "is an HTML page" in refusal(UnsupportedImage, "image/jpeg", b"<!doctype html>")
    assert "is an SVG drawing" in refusal(UnsupportedImage, "image/svg+xml", b'<?xml version="1.0"?><svg xmlns="a"/>')
    assert "is base64; send the image itself" in refusal(UnsupportedImage, "image/jpeg", BASE64.encode())
    assert "is a data: URL" in refusal(UnsupportedImage, "image/jpeg", b"data:image/png;base64,iVBORw0KGgo=")
    for mangled in (PICTURE.decode("utf-8", "replace"), PICTURE.decode("latin-1"), "\ufffdPNG\r\n", "\x89PNG\r\n"):
        assert "bytes turned into text" in refusal(UnsupportedImage, "image/jpeg", mangled.encode())
    for kind, start in (("a video", b"\0\0\0\x18ftypmp42"), ("a JPEG XL picture", b"\xff\x0a\x7f")):
        assert f"is {kind}" in refusal(UnsupportedImage, "image/jpeg", start)
    for label in ("json", "application/json, application/json", "undefined", "*/*"):
        assert f"was sent as {label} but" in refusal(UnsupportedContentType, label, body)
    assert "JSON.stringify" in refusal(UnsupportedContentType, "text/plain", b"[object Object]")
    assert "The body is empty" in refusal(UnsupportedImage, "image/jpeg", b"")
    assert parsed("image/png", PICTURE)[0] == PICTURE  # that much of a label is a hint
    assert refusal(UnsupportedContentType, "text/plain", b"hello").startswith("The body was sent as text/plain; send ")
    assert refusal(UnsupportedContentType, None, b"hello").startswith("The body has no Content-Type; send ")
    for kind in ("mixed", "related", "alternative"):
        for head in ("Content-Disposition: form-data; name=image", "Content-Type: image/jpeg"):
            sentence = refusal(UnsupportedContentType, f"multipart/{kind}; boundary=x", multipart((head, PICTURE)))
            assert f"was sent as multipart/{kind}; send the parts as multipart/form-data" in sentence
    assert refusal(MissingImage, None, b"") == MissingImage.sentence


def test_a_coded_body_is_named_with_its_coding() -> None:
    for coding in ("gzip", "X-GZIP", "deflate", "br", "zstd", "identity, gzip"):
        sentence = refusal(UnsupportedContentType, "application/json", b"\x1f\x8b", **{"Content-Encoding": coding})
        assert coding.lower().split(", ")[-1] in sentence
        assert "without Content-Encoding" in sentence
    for label in ("identity", "utf-8", "", "binary"):
        assert parsed("image/jpeg", PICTURE, **{"Content-Encoding": label})[0] == PICTURE


def test_every_form_s_picture_is_held_against_the_limit() -> None:
    large = b"\xff\xd8\xff" + bytes(100_000)
    refusal(ImageTooLarge, "image/jpeg", large)
    refusal(ImageTooLarge, "multipart/form-data; boundary=x",
            multipart(("Content-Disposition: form-data; name=image", large)))  # fmt: skip
    data_url = "data:;base64," + base64.b64encode(large).decode()
    refusal(ImageTooLarge, "application/json", json.dumps({"imageUrl": data_url}).encode())


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"imageUrl": "data:image/png;base64,%s", "prompt": "\xc3\xb6"}' % (b"AAAA" * 2_000_000)),
        ("application/json", b'{"imageUrl": "data:;base64,%s"}' % (b"AAAA\\n" * 1_500_000)),
        ("application/json", b'{"imageUrl": "data:;base64,%s"}' % (b"%41AAA" * 200_000)),
        ("application/json", b'{"imageUrl": "data:,\xf0\x9f\x98\x80%s"}' % (b"A" * 8_000_000)),
        ("multipart/form-data; boundary=x",
         multipart(("Content-Disposition: form-data; name=imageUrl", b"data:;base64," + b"AAAA" * 2_000_000))),
        ("application/x-www-form-urlencoded", b"imageUrl=data:;base64," + b"AAA%2b" * 200_000),
    ],
    ids=["base64", "in lines", "escapes", "an emoji", "a form's field", "an escaped field"],
)  # fmt: skip
def test_the_picture_in_a_body_is_charged_with_what_reading_it_takes(content_type: str, body: bytes) -> None:
    request = request_of(content_type)
    tracemalloc.start()
    with suppress(InvalidImageUrl):
        parse_caption_request(request, body, DEFAULTS, max_image_bytes=10**8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= parsing_memory(request, body) + 1_000_000
