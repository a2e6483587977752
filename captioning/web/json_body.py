"""From a JSON body to an object, and what that takes in memory."""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import Any

from pydantic_core import from_json

from captioning.errors import InvalidJson
from captioning.pictures.sniffing import mislabelled

# A body of 15 MB that is nothing but "[]," would become 300 MB of Python objects; real ones hold a few fields.
_MAX_ELEMENTS = 10_000
_ELEMENT_BYTES = 400  # a dictionary of one entry takes 232 bytes, its key 50

_BOM = b"\xef\xbb\xbf"
_EXAMPLE = 'send an object such as {"imageUrl": "https://example.com/image.jpg"}'

# A string without its end counts to the body's end: looked for again from each quote, it would take quadratic time.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)', re.DOTALL)
# Python keeps a string in 1, 2 or 4 bytes a character, by the widest of them (PEP 393).
_FOUR_BYTES_WIDE = re.compile(rb"[\xf0-\xff]|\\u[dD][89abAB]")
_TWO_BYTES_WIDE = re.compile(rb"[\xc4-\xff]|\\u(?!00)")
_UNQUOTED = re.compile(rb"\s*+(?:'\s*+)?[{\[]\s*+(?:'?\w|\xe2\x80[\x98-\x9f])|\s*+'")


def parse_json(body: bytes) -> dict[str, Any]:
    """Return the object that the body holds.

    Raises:
        InvalidJson: it holds none; the sentence says what it holds, as far as that can be told.
    """
    if _elements(body) > _MAX_ELEMENTS:
        raise InvalidJson(f"The JSON body holds more than {_MAX_ELEMENTS:,} elements.")
    body = body.removeprefix(_BOM)
    try:
        value = from_json(body, cache_strings="none")
    except ValueError as error:
        raise InvalidJson(_what_is_wrong(body, str(error)), detail=str(error)) from error
    if isinstance(value, dict):
        return value
    match value:
        case list():
            raise InvalidJson(f"The JSON is a list; {_EXAMPLE}, or several imageUrls to POST /local-captions.")
        case str():
            raise InvalidJson(f"The JSON is a string, perhaps encoded twice; {_EXAMPLE}.")
        case _:
            raise InvalidJson(f"The JSON is not an object; {_EXAMPLE}.")


def json_memory(body: bytes) -> int:
    """Return how many bytes `parse_json` takes at most beside the body: each string by its own widest character."""
    # With more strings than these, the body is refused for its elements, or is no JSON.
    found = islice(_STRING.finditer(body), 2 * _MAX_ELEMENTS + 2)
    strings = sum(_string_bytes(body, *match.span()) for match in found)
    copy = len(body) if body.startswith(_BOM) else 0
    return strings + copy + _ELEMENT_BYTES * min(_elements(body), _MAX_ELEMENTS)


def _string_bytes(body: bytes, start: int, end: int) -> int:
    width = 4 if _FOUR_BYTES_WIDE.search(body, start, end) else 2 if _TWO_BYTES_WIDE.search(body, start, end) else 1
    # What holds an escape is put together in a buffer first, which doubles as it grows.
    return (end - start) * (width + 2 * (body.find(b"\\", start, end) >= 0)) + 80


def _elements(body: bytes) -> int:
    return sum(map(body.count, (b",", b"[", b"{")))


def _what_is_wrong(body: bytes, problem: str) -> str:
    if not body.strip():
        return f"The body is empty; {_EXAMPLE}."
    if (encoding := json.detect_encoding(body)) not in ("utf-8", "utf-8-sig"):
        return f"The JSON is in {encoding.upper()}; send it in UTF-8."
    if sentence := mislabelled(body, "application/json"):
        return sentence
    if _UNQUOTED.match(body):
        return 'JSON needs double quotes (") around names and texts; in a Windows shell write each of them as \\".'
    if "hex escape" in problem:
        return "The JSON holds a broken \\u escape, such as one half of an emoji; cut texts between characters."
    if "unicode" in problem:
        return f"The JSON is not in UTF-8 ({problem}); send it in UTF-8."
    return f"The body is not valid JSON ({problem}); {_EXAMPLE}."
