"""From a form's body to its texts and files, within bounds on every count.

multipart's push parser is used because it bounds what Werkzeug does not: a part's header lines, in number and bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser
from werkzeug.wrappers import Request

from captioning.errors import InvalidRequest, MissingImage
from captioning.pictures.sniffing import mislabelled
from captioning.web.data_urls import decode_base64, percent_decode
from captioning.web.quoting import quoted

FORM_TYPES = ("multipart/form-data", "application/x-www-form-urlencoded")

_MAX_FIELDS = 20
_MAX_HEADERS = 8
_MAX_HEADER_BYTES = 4_096
_PIECE = 65_536
# Marks that only a quoted boundary may hold (RFC 2046, section 5.1.1) are taken from one without quotes as well.
_BOUNDARY = re.compile(r';\s*boundary\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;]*))', re.IGNORECASE)
_MAX_WIDE_TEXT_BYTES = 65_536  # one wide character makes each character of a text four bytes wide; a URL has none


@dataclass
class Form:
    """The fields of a form that hold something, in their order.

    An empty one counts as not given; browsers send one, without a file's name, for a file that nobody chose.
    """

    texts: list[tuple[str, str]] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)
    other_files: list[str] = field(default_factory=list)

    @property
    def fields(self) -> dict[str, str]:
        """Return the texts by name, the first of each."""
        return dict(reversed(self.texts))


def parse_form(request: Request, body: bytes, *, max_images: int = 1) -> Form:
    """Read a form. Each part named ``image`` is a picture, with a file name or without.

    Raises:
        InvalidRequest: it is malformed, or over one of the bounds.
    """
    form = Form()
    max_fields = _MAX_FIELDS + max_images
    if request.mimetype == "multipart/form-data":
        for part, content in _parts(body, _boundary(request), max_fields):
            if part.name == "image" and (content or part.filename):
                form.images.append(_transferred(part, content))
            elif content and part.filename is not None and not _is_url_as_blob(part, content):
                form.other_files.append(part.name)
            elif text := _text(content, part.name):
                form.texts.append((part.name, text))
    else:
        if sentence := mislabelled(body, request.mimetype):
            raise MissingImage(sentence)
        for name, value in _pairs(body, max_fields):
            if text := _text(value, field_name := _text(name, name[:40].decode("latin-1"))):
                form.texts.append((field_name, text))
    return form


def form_memory(request: Request, body: bytes) -> int:
    """Return how many bytes reading the form takes at most beside the body, the picture in a data: URL included."""
    if request.mimetype != "multipart/form-data":
        return 4 * len(body)  # "+" and escapes are undone, the text is decoded, the data: URL in it encoded
    taken = copies = 0
    with suppress(MultipartError):  # parsing it will end at the same place
        for event in _events(body, _boundary(request), max_parts=len(body)):
            if isinstance(event, MultipartSegment):
                # A file is copied once. A text is collected, decoded, and may be a data: URL, which is encoded anew.
                is_file = event.name == "image" or (event.filename is not None and event.name != "imageUrl")
                copies = 1 if is_file and not _is_base64(event) else 3
            elif event:
                taken += copies * len(event)
    return taken * 9 // 8  # a buffer that grows is up to an eighth larger than what is in it


def _boundary(request: Request) -> bytes:
    if found := _BOUNDARY.search(request.content_type or ""):
        quoted, bare = found.groups()
        if boundary := bare.strip() if quoted is None else re.sub(r"\\(.)", r"\1", quoted):
            return boundary.encode("latin-1")  # as WSGI decoded it
    raise InvalidRequest(
        "The Content-Type multipart/form-data has no boundary; let the client write that header itself, "
        "as curl -F and FormData do."
    )


def _parts(body: bytes, boundary: bytes, max_parts: int) -> list[tuple[MultipartSegment, bytes]]:
    parts: list[tuple[MultipartSegment, io.BytesIO]] = []
    try:
        for event in _events(body, boundary, max_parts):
            if isinstance(event, MultipartSegment):
                parts.append((event, io.BytesIO()))
            elif event:
                parts[-1][1].write(event)
    except ParserLimitReached as error:
        raise InvalidRequest(
            f"The form has more than {max_parts} parts, or a part with more than {_MAX_HEADERS} header lines "
            f"or one over {_MAX_HEADER_BYTES:,} bytes.",
            detail=str(error),
        ) from error
    except MultipartError as error:
        raise InvalidRequest(_what_is_wrong(body, boundary, str(error)), detail=str(error)) from error
    return [(part, content.getvalue()) for part, content in parts]


def _events(body: bytes, boundary: bytes, max_parts: int) -> Iterator[MultipartSegment | bytes | bytearray | None]:
    with PushMultipartParser(
        boundary,
        max_header_size=_MAX_HEADER_BYTES,
        max_header_count=_MAX_HEADERS,
        max_segment_count=max_parts,
        header_charset="latin-1",  # in which every byte is a character: a file's name may be in any charset
    ) as parser:
        for start in range(0, len(body), _PIECE):
            yield from parser.parse(body[start : start + _PIECE])


def _what_is_wrong(body: bytes, boundary: bytes, problem: str) -> str:
    if not body:
        return "The form is empty; send a file named image, or a field imageUrl."
    if sentence := mislabelled(body, "multipart/form-data"):
        return sentence
    if boundary not in body:
        return "The boundary that the Content-Type names does not stand in the form; let the client write that header."
    if b"--" + boundary + b"--" not in body:
        return "The form is cut short: its last boundary is missing."
    return (
        f"The form is not valid multipart/form-data ({problem}); each part needs a line such as "
        'Content-Disposition: form-data; name="image", an empty line and its content, with CRLF as line ends.'
    )


def _pairs(body: bytes, max_pairs: int) -> list[tuple[bytes, bytes]]:
    if body.count(b"&") >= max_pairs:
        raise InvalidRequest(f"The form has more than {max_pairs} fields.")
    pairs = (pair.partition(b"=") for pair in body.split(b"&"))
    return [(_unescaped(name), _unescaped(value)) for name, _, value in pairs]


def _unescaped(text: bytes) -> bytes:
    # curl -d escapes nothing, and a plus in base64 is no space.
    head, comma, base64 = text.partition(b",") if text.startswith(b"data:") else (text, b"", b"")
    return percent_decode(head.replace(b"+", b" ") + comma + base64)


def _is_url_as_blob(part: MultipartSegment, content: bytes) -> bool:
    """Tell whether a text was appended as a Blob, to which FormData gives a file's name."""
    return part.name == "imageUrl" and content.isascii()


def _is_base64(part: MultipartSegment) -> bool:
    return str(part.header("Content-Transfer-Encoding", "")).strip().lower() == "base64"


def _transferred(part: MultipartSegment, content: bytes) -> bytes:
    """Undo the one coding of RFC 2045 that old clients still use, where the content is what the label says."""
    if not _is_base64(part):
        return content
    try:
        return decode_base64(content)
    except ValueError:
        return content


def _text(content: bytes, name: str) -> str:
    if len(content) > _MAX_WIDE_TEXT_BYTES and not content.isascii():
        raise InvalidRequest(
            f"The form's field {quoted(name)} is too long: {len(content):,} bytes, where a text that is not all ASCII "
            f"may have {_MAX_WIDE_TEXT_BYTES:,}."
        )
    return content.decode("utf-8", "replace").strip()
