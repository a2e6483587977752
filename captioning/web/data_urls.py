"""From a data: URL to the bytes in it, as browsers read it.

Sources: the Fetch Standard, "data: URLs" (https://fetch.spec.whatwg.org/#data-url-processor), and the Infra Standard,
"forgiving-base64 decode" (https://infra.spec.whatwg.org/#forgiving-base64-decode).
"""

from __future__ import annotations

import binascii
import io
import re
from urllib.parse import unquote_to_bytes

from captioning.errors import InvalidImageUrl

_PIECE = 8_192
_MAX_WIDE_CHARACTERS = 65_536
_BASE64_MARK = re.compile(rb"; *base64 *\Z", re.IGNORECASE)
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*+(={0,2})")


def is_data_url(text: str) -> bool:
    """Tell whether a text is a data: URL."""
    return text[:5].lower() == "data:"


def decode_data_url(url: str) -> bytes:
    """Return the bytes that a data: URL holds.

    Raises:
        InvalidImageUrl: it has no comma, its base64 is broken, or it is a long text that is not ASCII.
    """
    if len(url) > _MAX_WIDE_CHARACTERS and not url.isascii():  # which would take four bytes a character, twice
        raise InvalidImageUrl("The data: URL holds characters that are not ASCII; use base64.")
    content = _without(b"\t\n\r", url.encode()).partition(b"#")[0]  # as the URL Standard's parser does
    comma = content.find(b",")
    if comma < 0:
        raise InvalidImageUrl("The data: URL has no comma; it must look like data:image/jpeg;base64,/9j/4AAQ….")
    head, data = content[:comma], percent_decode(content[comma + 1 :])
    if not _BASE64_MARK.search(head):
        return data
    del content
    try:
        return decode_base64(data)
    except ValueError as error:
        raise InvalidImageUrl(f"The data: URL does not hold valid base64: {error}.") from error


def decode_base64(data: bytes) -> bytes:
    """Decode base64, with white space in it or none, with its padding or without; valid base64 is not copied.

    Raises:
        ValueError: it is broken.
    """
    data = _without(b"\t\n\f\r ", data)
    match = _BASE64.fullmatch(data)
    if match is None:
        end = _BASE64.match(data).end()  # type: ignore[union-attr]
        wrong = data[end : end + 4].decode("utf-8", "replace")[0]
        raise ValueError(f"it holds {wrong!a} where base64 has no such character")
    if match.start(1) % 4 == 1 or (match[1] and len(data) % 4):
        raise ValueError("it is cut short, or its padding is wrong")
    return binascii.a2b_base64(data if len(data) % 4 == 0 else data + b"=" * (-len(data) % 4))


def percent_decode(data: bytes) -> bytes:
    """Undo percent-escapes, a piece at a time: each costs some 230 bytes while it is undone."""
    if b"%" not in data:
        return data
    decoded = io.BytesIO()
    start = 0
    while start < len(data):
        end = start + _PIECE
        cut_escape = data.rfind(b"%", end - 2, end)
        end = cut_escape if cut_escape > start else end
        decoded.write(unquote_to_bytes(data[start:end]))
        start = end
    return decoded.getvalue()


def _without(removed: bytes, data: bytes) -> bytes:
    return data.translate(None, removed) if any(byte in data for byte in removed) else data
