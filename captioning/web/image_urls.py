"""From the text of an imageUrl to what is captioned, or to a sentence that says what the text is instead."""

from __future__ import annotations

import re

from captioning.errors import InvalidImageUrl
from captioning.fetch.urls import parse_url
from captioning.limits import within_limit
from captioning.pictures.formats import ENDINGS
from captioning.pictures.sniffing import looks_like
from captioning.web.data_urls import decode_data_url, is_data_url

_UPLOAD = "send the picture itself, with curl -F image=@photo.jpg"
_NO_SCHEME = "imageUrl has no scheme; put https:// in front of it."
_HOST = r"(?:(?:[\w-]++\.)++[a-z]{2,}|(?:\d{1,3}\.){3}\d{1,3}|localhost)(?::\d+)?"
_PICTURE_FILE = rf"[^:?#]*(?:{'|'.join(map(re.escape, (*ENDINGS, '.heic')))})\Z"

# What people send in place of a URL, with what to change. The first that fits counts.
_MISTAKES = [
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), sentence)
    for pattern, sentence in (
        (r"https?://https?:?//", "imageUrl has http:// or https:// twice; once is enough."),
        (r".*<\w", "imageUrl holds HTML; send only the URL that stands in it."),
        (
            r"(?:undefined|null|none|nan|\[object \w+\])\Z",
            "imageUrl is what a variable without a URL looks like as text; look where your program sets it.",
        ),
        (r"!?[\"'`\u201c\u2018(\[{]", "imageUrl has quotation marks or brackets around the URL; send the URL alone."),
        (r"(?:https?|data)%3a", "imageUrl is percent-encoded as a whole; decode it once."),
        (r"(?:image/[\w.+-]+)?;?\s*base64,", "imageUrl lacks its beginning; write data:image/jpeg;base64, in front."),
        (
            r"(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR|SUkq|TU0A|Qk[0-3])[\w+/=\s-]*\Z|[\w+/\s-]{100,}[=\s]*\Z",
            "imageUrl is bare base64; make it a data: URL, with data:image/jpeg;base64, in front.",
        ),
        (r"blob:", f"A blob: URL is known only to the page that made it; {_UPLOAD}, or a data: URL."),
        (r"file:|[a-z]:[\\/]|\\\\", f"imageUrl names a file, which the service cannot read; {_UPLOAD}."),
        (r"https?(?:[:/]|\s|\Z)", "imageUrl must begin with http:// or https://, with a colon and two slashes."),
        (r"//\w", "imageUrl has no scheme; put https: in front of it."),
        (rf"{_HOST}[/?#]", _NO_SCHEME),
        (rf"[/~]|\.\.?/|{_PICTURE_FILE}", f"imageUrl is a path without a host; send the whole URL, or {_UPLOAD}."),
        (rf"{_HOST}\Z", _NO_SCHEME),
        (
            r".+?https?://",
            "imageUrl has something, maybe invisible, in front of http:// or https://; send the URL alone.",
        ),
        (r"(?:s3|gs|az|abfss?):", "The service has no key to that store; send a signed https:// URL of the object."),
        (r"[a-z][a-z0-9+.-]*:", "imageUrl must begin with http:// or https://; other schemes are not fetched."),
    )
]  # fmt: skip


def source_of(url: str, max_image_bytes: int) -> str | bytes:
    """Return an http(s) URL as it is, once its text was checked, and the picture that a data: URL holds.

    Raises:
        InvalidImageUrl, ImageTooLarge: as the table of errors says.
    """
    url = url.strip()
    if is_data_url(url):
        picture = within_limit(decode_data_url(url), max_image_bytes)
        if looks_like(picture) == "base64":
            raise InvalidImageUrl("The data: URL holds base64, but not after ;base64, as in data:image/jpeg;base64,…")
        return picture
    if not re.match("https?://(?!https?:?//)", url, re.IGNORECASE):
        raise InvalidImageUrl(mistake_in(url))
    if re.search(r"\shttps?://", url, re.IGNORECASE):
        raise InvalidImageUrl("imageUrl holds several URLs; send one, or all as imageUrls to POST /local-captions.")
    parse_url(url)
    return url


def mistake_in(text: str) -> str:
    """Say what a text is that is no URL, and what to send in its place."""
    if not text:
        return "imageUrl is empty; send an http:, https: or data: URL."
    head = text[:2_000]
    known = (sentence for pattern, sentence in _MISTAKES if pattern.match(head))
    return next(known, "imageUrl is not a URL; it must start with http:// or https://.")
