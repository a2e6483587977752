"""From the body of a request, in any of its forms, to one typed value."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from werkzeug.wrappers import Request

from captioning.errors import (
    InvalidParameter,
    MissingImage,
    UnsupportedContentType,
    UnsupportedImage,
)
from captioning.limits import within_limit
from captioning.model.engine import GenerationOptions
from captioning.pictures.sniffing import mislabelled, not_an_image, sent_as
from captioning.web.fields import MAX_IMAGES, Options, PictureFields, PicturesFields, checked, is_empty
from captioning.web.forms import FORM_TYPES, Form, form_memory, parse_form
from captioning.web.image_urls import mistake_in, source_of
from captioning.web.json_body import json_memory, parse_json
from captioning.web.quoting import quoted

_CODINGS = {"gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd"}
# What callers name the picture in place of imageUrl, without case and punctuation.
_MISNAMED = re.compile(r"(the)?(image|img|picture|pic|photo|file|media)?(urls?|uri|link|src|data|base64|path|file|s)?")


@dataclass(frozen=True)
class CaptionRequest:
    """What is asked for, without the pictures: their bytes are not kept for as long as this."""

    options: GenerationOptions
    details: bool = False
    candidates: int = 0


def parse_caption_request(
    request: Request, body: bytes, defaults: GenerationOptions, *, max_image_bytes: int
) -> tuple[str | bytes, CaptionRequest]:
    """Read the body as its Content-Type says: JSON, a form, or an image. Options may also stand in the query.

    The picture is an http(s) URL or encoded bytes.

    Raises:
        InvalidRequest, ImageTooLarge, UnsupportedContentType, UnsupportedImage: as the table of errors says.
    """
    _refuse_codings(request)
    given = checked(Options, request.args.to_dict(), strings=True)
    source: str | bytes
    if request.is_json:
        body_fields = parse_json(body)
        if is_empty(body_fields.get("imageUrl")):
            raise _missing("imageUrl", body_fields.items())
        named = checked(PictureFields, body_fields, strings=False)
        given, source = named.over(given), source_of(named.image_url, max_image_bytes)
    elif request.mimetype in FORM_TYPES:
        form = parse_form(request, body)
        given = checked(Options, form.fields, strings=True).over(given)
        source = _source_in(form, max_image_bytes)
    elif request.mimetype.startswith("image/"):
        source = _whole_body(request, body, max_image_bytes)
    elif body or request.mimetype:
        raise UnsupportedContentType(
            mislabelled(body, request.mimetype)
            or f"The body {sent_as(request.mimetype)}; send application/json, multipart/form-data or an image."
        )
    else:
        raise MissingImage
    return source, CaptionRequest(given.generation(defaults), bool(given.details), given.candidates or 0)


def parse_captions_request(
    request: Request, body: bytes, defaults: GenerationOptions
) -> tuple[list[str | bytes], CaptionRequest]:
    """Read JSON that names several pictures, or a form that holds them.

    They are pictures as they came, and URLs that nobody has looked at yet: each is judged in its turn.

    Raises:
        InvalidRequest, UnsupportedContentType: as the table of errors says.
    """
    _refuse_codings(request)
    given = checked(Options, request.args.to_dict(), strings=True)
    sources: list[str | bytes]
    if request.is_json:
        body_fields = parse_json(body)
        if body_fields.get("imageUrls") in (None, "", []):
            raise _missing("imageUrls", body_fields.items())
        named = checked(PicturesFields, body_fields, strings=False)
        given, sources = named.over(given), [*named.image_urls]
    elif request.mimetype == "multipart/form-data":
        form = parse_form(request, body, max_images=MAX_IMAGES)
        given = checked(Options, form.fields, strings=True).over(given)
        sources = _images_in(form)
    else:
        raise UnsupportedContentType(
            mislabelled(body, request.mimetype)
            or f"The body {sent_as(request.mimetype)}; send several pictures as application/json or "
            "multipart/form-data, and a single one to POST /local-caption."
        )
    return sources, CaptionRequest(given.generation(defaults), bool(given.details), given.candidates or 0)


def parsing_memory(request: Request, body: bytes) -> int:
    """Return how many bytes reading the body takes at most beside the body itself, the picture in it included."""
    if request.is_json:
        # A data: URL is copied as bytes, and once more without white space; its picture is three quarters as long.
        return json_memory(body) + 3 * len(body)
    return form_memory(request, body) if request.mimetype in FORM_TYPES else 0


def _refuse_codings(request: Request) -> None:
    codings = request.headers.get("Content-Encoding", "").lower().replace(" ", "").split(",")
    if known := sorted(_CODINGS.intersection(codings)):
        raise UnsupportedContentType(f"The body is coded ({', '.join(known)}); send it without Content-Encoding.")


def _whole_body(request: Request, body: bytes, max_image_bytes: int) -> bytes:
    if not body:
        raise UnsupportedImage("The body is empty; send the image's bytes, with curl --data-binary @photo.jpg.")
    if not_an_image(body):
        raise UnsupportedImage(mislabelled(body, request.mimetype))
    return within_limit(body, max_image_bytes)


def picture_of(part: bytes, max_image_bytes: int) -> bytes:
    """Return the picture that a part named image holds.

    Raises:
        MissingImage, UnsupportedImage, ImageTooLarge: it holds a text in its place, or nothing, or too much.
    """
    if not part:
        raise UnsupportedImage("The form's image is an empty file.")
    head = part[:2_000].decode("latin-1").strip()
    if re.match(r"https?://|data:", head, re.IGNORECASE):
        raise MissingImage("The form's image holds a URL; send it in a field named imageUrl.")
    if head.isascii() and head.isprintable() and "base64" in mistake_in(head):
        raise MissingImage("The form's image holds base64; send the bytes themselves, or a data: URL as imageUrl.")
    return within_limit(part, max_image_bytes)


def _source_in(form: Form, max_image_bytes: int) -> str | bytes:
    urls = [value for name, value in form.texts if name == "imageUrl"]
    if len(urls) + len(form.images) > 1:
        raise InvalidParameter(
            "The form holds more than one picture; send one as image or imageUrl, or several as image to "
            "POST /local-captions."
        )
    if form.images:
        return picture_of(form.images[0], max_image_bytes)
    if urls:
        return source_of(urls[0], max_image_bytes)
    if form.other_files:
        raise _misnamed_file(form)
    raise _missing("imageUrl", form.texts)


def _images_in(form: Form) -> list[str | bytes]:
    if not form.images and form.other_files:
        raise _misnamed_file(form)
    if not form.images or "imageUrl" in form.fields or "imageUrls" in form.fields:
        raise MissingImage("Send the pictures as files, each named image, or their URLs in JSON, as imageUrls.")
    if len(form.images) > MAX_IMAGES:
        raise InvalidParameter(f"The form holds {len(form.images)} pictures; at most {MAX_IMAGES} may come at once.")
    return [*form.images]


def _misnamed_file(form: Form) -> MissingImage:
    name = form.other_files[0]
    known = f"is named {quoted(name)}" if name else "has no name (name*= is not read)"
    return MissingImage(f"The form's file {known}; name it image, as in curl -F image=@photo.jpg.")


def _missing(wanted: str, given: Iterable[tuple[str, Any]]) -> MissingImage:
    """Say under which name a picture was given in place of the right one, if it was."""
    for name, value in given:
        if not name:
            return MissingImage('A part of the form has no name; write name="image" (name*= is not read).')
        plain = re.sub(r"[^a-z]", "", name.lower())
        if name in (wanted, "prompt") or is_empty(value):
            continue
        if name == "imageUrls":
            return MissingImage("imageUrls goes to POST /local-captions; here send imageUrl, one URL.")
        if name == "imageUrl":
            return MissingImage("imageUrl goes to POST /local-caption; here send imageUrls, a list of URLs.")
        is_url = isinstance(value, str) and re.match(r"https?://|data:", value, re.IGNORECASE)
        if is_url or (len(plain) > 2 and _MISNAMED.fullmatch(plain)):
            return MissingImage(f"The picture is given as {quoted(name)}; the field must be named {wanted}.")
    if wanted == "imageUrls":
        return MissingImage("No images were given; send imageUrls, a list of URLs.")
    return MissingImage()
