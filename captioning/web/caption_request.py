"""From the body of a request, in any of its forms, to one typed value."""

from __future__ import annotations

import base64
import binascii
import io
import json
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser
from werkzeug.wrappers import Request

from captioning.errors import (
    ImageTooLarge,
    InvalidImageUrl,
    InvalidJson,
    InvalidParameter,
    InvalidRequest,
    MissingImage,
    UnsupportedContentType,
)
from captioning.fetch.urls import parse_url
from captioning.model.engine import GenerationOptions
from captioning.settings import MAX_NEW_TOKENS_LIMIT, NUM_BEAMS_LIMIT

# What a stranger packs into few bytes and Python unpacks into many is bounded before it is parsed.
# A body of 15 MB that is nothing but "[]," would become 300 MB of Python objects; real ones hold a few fields.
_MAX_JSON_ELEMENTS = 10_000
_MAX_FORM_PARTS = 20
_MAX_ESCAPES = 20_000  # each percent-escape costs 230 bytes while it is undone
_MAX_IMAGE_URLS = 64


class Options(BaseModel):
    """Check the options, which come as JSON fields, form fields or query parameters."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", strict=True)

    prompt: str | None = Field(None, max_length=500, description="text that the caption continues")
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        le=MAX_NEW_TOKENS_LIMIT,
        description="longest continuation in tokens, less where the model has less room",
    )
    num_beams: int | None = Field(None, ge=1, le=NUM_BEAMS_LIMIT, description="beams to search; 1 is greedy")

    def over(self, defaults: GenerationOptions) -> GenerationOptions:
        """Return the defaults with what was given in their place."""
        given = self.model_dump(include={"max_new_tokens", "num_beams"}, exclude_none=True)
        return replace(defaults, prompt=(self.prompt or "").strip(), **given)


class PictureFields(Options):
    """Check a body that names one picture."""

    image_url: str = Field(description="an http:, https: or data: URL", examples=["https://example.com/image.jpg"])


class PicturesFields(Options):
    """Check a body that names several pictures."""

    image_urls: list[str] = Field(
        min_length=1, max_length=_MAX_IMAGE_URLS, description="http:, https: or data: URLs, captioned each for itself"
    )


Fields = TypeVar("Fields", bound=Options)


@dataclass(frozen=True)
class CaptionRequest:
    """Hold what is asked for: ``source`` is an http(s) URL or a picture's encoded bytes."""

    source: str | bytes
    options: GenerationOptions


@dataclass(frozen=True)
class CaptionsRequest:
    """Hold what is asked for: URLs that nobody has looked at yet."""

    image_urls: list[str]
    options: GenerationOptions


def parse_caption_request(
    request: Request, body: bytes, defaults: GenerationOptions, *, max_image_bytes: int
) -> CaptionRequest:
    """Read the body as its Content-Type says: JSON, a form, or an image with the options in the query.

    Raises:
        InvalidJson, MissingImage, InvalidParameter, InvalidImageUrl, ImageTooLarge, UnsupportedContentType:
            as the table of errors says.
    """
    fields: dict[str, Any]
    image: bytes | None = None
    if request.is_json:
        fields = _json_object(body)
    elif request.mimetype in ("multipart/form-data", "application/x-www-form-urlencoded"):
        fields, image = _form(request, body)
    elif request.mimetype.startswith("image/"):
        fields, image = request.args.to_dict(), body
    else:
        raise UnsupportedContentType if body or request.mimetype else MissingImage
    if image is not None:
        checked = _checked(Options, fields, strings=True)
        return CaptionRequest(_within_limit(image, len(image), max_image_bytes), checked.over(defaults))
    if fields.get("imageUrl") in (None, ""):
        raise MissingImage
    named = _checked(PictureFields, fields, strings=not request.is_json)
    return CaptionRequest(source_of(named.image_url, max_image_bytes), named.over(defaults))


def parse_captions_request(request: Request, body: bytes, defaults: GenerationOptions) -> CaptionsRequest:
    """Read a JSON body that names several pictures; whether each can be used is seen when its turn comes.

    Raises:
        InvalidJson, MissingImage, InvalidParameter, UnsupportedContentType: as the table of errors says.
    """
    if not request.is_json:
        raise UnsupportedContentType("The body must be application/json.")
    fields = _json_object(body)
    if fields.get("imageUrls") in (None, []):
        raise MissingImage("No images were given; send imageUrls, a list of URLs.")
    named = _checked(PicturesFields, fields, strings=False)
    return CaptionsRequest(named.image_urls, named.over(defaults))


def _form(request: Request, body: bytes) -> tuple[dict[str, Any], bytes | None]:
    parser = FormDataParser(
        stream_factory=lambda *args, **kwargs: io.BytesIO(),  # by default, files over 500 kB go to the disk
        max_form_memory_size=len(body),
        max_form_parts=_MAX_FORM_PARTS,
    )
    if request.mimetype == "application/x-www-form-urlencoded":
        if body.count(b"&") >= _MAX_FORM_PARTS:
            raise InvalidRequest(f"The form has more than {_MAX_FORM_PARTS} parts.")
        if body.count(b"%") > _MAX_ESCAPES:
            raise InvalidRequest("The form has too many percent-escapes; send the picture as JSON or multipart.")
    try:
        _, form, files = parser.parse(io.BytesIO(body), request.mimetype, len(body), request.mimetype_params)
    except RequestEntityTooLarge as error:
        raise InvalidRequest(f"The form has more than {_MAX_FORM_PARTS} parts.") from error
    file = files.get("image")
    return form.to_dict(), None if file is None else file.read()


def _json_object(body: bytes) -> dict[str, Any]:
    if sum(map(body.count, (b",", b"[", b"{"))) > _MAX_JSON_ELEMENTS:
        raise InvalidJson(f"The JSON body holds more than {_MAX_JSON_ELEMENTS:,} elements.")
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidJson(detail=str(error)) from error
    if not isinstance(fields, dict):
        raise InvalidJson
    return fields


def _checked(model: type[Fields], fields: dict[str, Any], *, strings: bool) -> Fields:
    known = {field.alias: fields[field.alias] for field in model.model_fields.values() if field.alias in fields}
    try:
        return model.model_validate_strings(known) if strings else model.model_validate(known)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        if problem["loc"] == ("imageUrl",):
            raise InvalidImageUrl("imageUrl must be a string.") from error
        raise InvalidParameter(f"{problem['loc'][0]}: {problem['msg']}.") from error


def source_of(url: str, max_image_bytes: int) -> str | bytes:
    """Return an http(s) URL as it is, once its text was checked, and the picture that a data: URL holds.

    Raises:
        InvalidImageUrl, ImageTooLarge: as the table of errors says.
    """
    url = url.strip()
    if url[:5].lower() == "data:":
        return _from_data_url(url, max_image_bytes)
    parse_url(url)
    return url


def _from_data_url(url: str, max_image_bytes: int) -> bytes:
    """Decode a data: URL (RFC 2397), base64 as forgivingly as browsers do (WHATWG Infra, forgiving-base64)."""
    head, comma, data = url.partition(",")
    if not comma:
        raise InvalidImageUrl("The data: URL has no comma between its type and its data.")
    if not data.isascii() or data.count("%") > _MAX_ESCAPES:
        raise InvalidImageUrl("The data: URL must be ASCII with few percent-escapes; use base64.")
    is_base64 = head.lower().endswith(";base64")
    _within_limit(b"", len(data) * 3 // 4 - 2 if is_base64 and "%" not in data else 0, max_image_bytes)
    try:
        content = unquote_to_bytes(data) if "%" in data or not is_base64 else data.encode("ascii")
        if is_base64:
            content = content.translate(None, b" \t\r\n\f").rstrip(b"=")
            content = base64.b64decode(content + b"=" * (-len(content) % 4), validate=True)
    except binascii.Error as error:
        raise InvalidImageUrl("The data: URL does not hold valid base64.", detail=str(error)) from error
    return _within_limit(content, len(content), max_image_bytes)


def _within_limit(image: bytes, size: int, max_image_bytes: int) -> bytes:
    if size > max_image_bytes:
        raise ImageTooLarge(f"The image is over the limit of {max_image_bytes:,} bytes.")
    return image
