"""What bytes begin like, so that a wrong label, or a page in a picture's place, is told from a broken picture.

Source: the MIME Sniffing Standard (https://mimesniff.spec.whatwg.org/), with a few more that people send.
"""

from __future__ import annotations

import re

from captioning.pictures.formats import FORMATS

# Bodies beside pictures that the service reads, by the type that they should be sent as.
_READ = {
    "application/json": rb"(\xef\xbb\xbf)?\s*[{\[](?!object )",
    "multipart/form-data": rb"\s*--[^\r\n]+\r?\nContent-",
    "application/x-www-form-urlencoded": rb"[\w.%+\[\]-]{1,100}=[^=]",
}
_NOT_READ = {
    "an HTML page": rb"(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)?<(!doctype html|html|head|body|script|style|title|meta|iframe|"
    rb"table|div|font|h1|p|br|b|a)\b",
    "an SVG drawing": rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg\b",
    "a PDF document": rb"%PDF-",
    "a HEIC photograph": rb".{4}ftyp(?:he[iv][cfmsx]|m[is]f1.{4}(?:.{4}){,16}?he[iv][cfmsx])",
    "a JPEG XL picture": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "a JPEG 2000 picture": rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  ",
    "a video": rb".{4}ftyp(?:isom|iso[2-6]|mp4[12]|avc1|M4V |qt  |3g[p2].)|\x1aE\xdf\xa3",
    "a data: URL": rb"data:image/",
    "base64": rb"(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR)[\w+/]",
    "a JavaScript object turned into text (JSON.stringify makes JSON of it, new Blob a file)": rb"\[object ",
    "a picture's bytes turned into text (new Blob([buffer]) keeps them)": rb"(?:\xef\xbf\xbd){3}|\xef\xbf\xbdPNG|"
    rb"\xc3\xbf\xc3\x98\xc3\xbf|\xc2\x89PNG",
    "compressed with gzip": rb"\x1f\x8b",
    "compressed with zstd": rb"\x28\xb5\x2f\xfd",
}
_PATTERNS = {
    **{row.media_type: row.signature for row in FORMATS},
    **{kind: re.compile(pattern, re.IGNORECASE | re.DOTALL) for kind, pattern in {**_READ, **_NOT_READ}.items()},
}
_TYPE = re.compile(r"[ -~]{1,100}")


def looks_like(content: bytes) -> str | None:
    """Return the media type, or a few words, for what the content begins like, if it is known."""
    head = content[:1024]
    return next((kind for kind, pattern in _PATTERNS.items() if pattern.match(head)), None)


def not_an_image(content: bytes) -> str | None:
    """Say what a picture that cannot be read is in truth; None where that cannot be told."""
    kind = looks_like(content)
    if kind is None or kind.startswith("image/"):
        return None
    described = kind if kind in _NOT_READ else f"not an image but {kind}"
    return f"The image is {described}; send the image itself, as JPEG, PNG or WebP."


def mislabelled(body: bytes, declared: str) -> str | None:
    """Say how to send a body that is not what its Content-Type declares; None where it begins like nothing else."""
    kind = looks_like(body)
    sent = sent_as(declared)
    if declared.startswith("multipart/") and declared != "multipart/form-data":
        return f'The body {sent}; send the parts as multipart/form-data, the picture in one with name="image".'
    if kind is None or kind == declared:
        return None
    if kind in _NOT_READ:
        return f"The body is {kind}; send the image itself, or JSON that names it."
    if kind == "multipart/form-data":
        return f"The body {sent} but is a form of parts; let curl -F or FormData write its Content-Type and boundary."
    return f"The body {sent} but looks like {kind}; send it with -H 'Content-Type: {kind}'."


def sent_as(declared: str) -> str:
    """Say which media type a body was declared to have."""
    return f"was sent as {declared}" if _TYPE.fullmatch(declared) else "has no Content-Type"
