"""From a URL that a stranger chose to the bytes behind it.

requests-hardened 1.3.0 is not built upon: it puts one address into the URL before a connection exists,
so there is no second address to try and nowhere to hang a deadline, and its table would be replaced.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import HTTPException

from requests import Response
from urllib3.exceptions import HTTPError, MaxRetryError, ProtocolError

from captioning.deadline import UNLIMITED, Deadline
from captioning.errors import ImageFetchFailed, ImageFetchTimeout, ImageNotFound, InvalidImageUrl
from captioning.fetch.codings import EndedEarly, unpacked
from captioning.fetch.destinations import Destinations
from captioning.fetch.dialer import Dialer
from captioning.fetch.transport import Transport
from captioning.fetch.urls import Url, parse_url
from captioning.limits import check_image_bytes

_REDIRECTS = (301, 302, 303, 307, 308)
# 4xx that may be otherwise in a while (RFC 9110, RFC 8470, RFC 6585), as any 5xx may.
_TRANSIENT = (408, 425, 429)
_NO_PICTURE = {
    204: "it has no content",
    205: "it has no content",
    206: "it sent a part of the image only",
    300: "it offers several images to choose from",
    304: "it takes the image for known",
    **dict.fromkeys(_REDIRECTS, "it does not say where the image is"),
}
_MAX_RETRY_AFTER_S = 3600
_PIECE = 65_536
# Beside the picture there are headers, chunk sizes and trailers.
_OVERHEAD = 1_048_576
# OSError holds requests' own tree, ssl's and socket's; ValueError holds UnicodeError.
_LIBRARY_FAILURES = (OSError, HTTPError, HTTPException, ValueError)


class Fetcher:
    """What downloads pictures, for many threads at once; it keeps nothing from one fetch to the next."""

    def __init__(
        self,
        *,
        connect_timeout_s: float,
        timeout_s: float,
        max_redirects: int,
        max_bytes: int,
        allowed_hosts: frozenset[str],
        allowed_ports: frozenset[int] | None,
        allow_private_addresses: bool,
        user_agent: str,
    ) -> None:
        self._timeout_s = timeout_s
        self._max_redirects = max_redirects
        self._max_bytes = max_bytes
        self._headers = {
            "User-Agent": user_agent,
            "Accept": "image/*,*/*;q=0.8",  # some servers answer 406 to image/* alone
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        destinations = Destinations(allowed_hosts, allowed_ports, allow_private_addresses)
        self._dialer = Dialer(destinations, connect_timeout_s=connect_timeout_s)

    def fetch(
        self, url: str, deadline: Deadline = UNLIMITED, on_bytes: Callable[[int], None] = lambda size: None
    ) -> bytes:
        """Return the body behind an http or https URL, unpacked.

        ``deadline`` is the caller's; a download has no more than the fetcher's own time in any case.
        ``on_bytes`` is called with the size of each piece before it is kept, and may wait or raise.

        Raises:
            EndedEarly: with what came of the body.
            CaptioningError: whatever else fails, it is of the tree.
        """
        timeout = partial(ImageFetchTimeout, f"The image could not be fetched within {self._timeout_s:.3g} seconds.")
        deadline = deadline.within(self._timeout_s, timeout)
        try:
            return self._follow(parse_url(url), deadline, on_bytes)
        except _LIBRARY_FAILURES as exc:
            deadline.check()  # what breaks after the deadline broke because of it
            raise ImageFetchFailed(detail=f"{type(exc).__name__}: {_reason(exc)}") from exc

    def _follow(self, url: Url, deadline: Deadline, on_bytes: Callable[[int], None]) -> bytes:
        for _ in range(self._max_redirects + 1):
            dial = partial(self._dialer.dial, url, deadline, max_bytes=2 * self._max_bytes + _OVERHEAD)
            with (
                closing(Transport(url, dial)) as transport,
                closing(transport.get(self._headers, timeout_s=deadline.remaining())) as answer,
            ):
                if answer.status_code not in _REDIRECTS or "Location" not in answer.headers:
                    return self._body(answer, deadline, on_bytes)
                url = _redirected(url, answer.headers["Location"])
        raise ImageFetchFailed(f"The image's URL redirects more than {self._max_redirects} times.")

    def _body(self, answer: Response, deadline: Deadline, on_bytes: Callable[[int], None]) -> bytes:
        _check_status(answer)
        check_image_bytes(answer.raw.length_remaining or 0, self._max_bytes)
        pieces = unpacked(
            _received(answer),
            answer.headers["Content-Encoding"].split(","),
            max_bytes=self._max_bytes,
            deadline=deadline,
            on_bytes=on_bytes,
        )
        body = io.BytesIO()
        try:
            for piece in pieces:
                deadline.check()
                check_image_bytes(body.tell() + len(piece), self._max_bytes)
                on_bytes(len(piece))
                body.write(piece)
        except EndedEarly as exc:
            exc.content = body.getvalue()
            raise
        return body.getvalue()


def _received(answer: Response) -> Iterator[bytes]:
    try:
        yield from answer.raw.stream(_PIECE, decode_content=False)
    except ProtocolError as exc:
        raise EndedEarly(detail=str(exc)) from exc


def _redirected(url: Url, location: str) -> Url:
    try:
        return url.redirect(location)
    except InvalidImageUrl as exc:
        told = exc.message.replace("The image's URL", "The URL that the image's URL redirects to")
        raise InvalidImageUrl(told, detail=exc.detail) from exc


def _check_status(answer: Response) -> None:
    """Do nothing if a whole picture follows.

    Raises:
        ImageNotFound: there is none.
        ImageFetchFailed: there may be one another time, and if the server says when, the error says it too.
    """
    status = answer.status_code
    if status in (200, 203) or (status == 206 and _is_whole(answer.headers.get("Content-Range", ""))):
        return
    said = f"The image's server answered {status}"
    if status in _TRANSIENT or status >= 500:
        raise ImageFetchFailed(f"{said}; it may have the image later.", retry_after_s=_retry_after_s(answer))
    if status >= 400:
        raise ImageNotFound(f"{said}.")
    reason = _NO_PICTURE.get(status, "that is no image")
    raise ImageFetchFailed(f"{said} where 200 was expected: {reason}.", retry_after_s=_retry_after_s(answer))


def _is_whole(content_range: str) -> bool:
    """Tell whether a range is all there is (RFC 9110, section 14.4)."""
    found = re.fullmatch(r"bytes[ =]+0-(\d{1,18})/(\d{1,18})", content_range.strip(), re.IGNORECASE)
    return found is not None and int(found[1]) + 1 == int(found[2])


def _retry_after_s(answer: Response) -> float | None:
    """Return for how long a server wants to be left alone, given in seconds or as a date by its own clock."""
    value = answer.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+", value):
        wanted = float(value)
    else:
        until, now = _date(value), _date(answer.headers.get("Date", "")) or datetime.now(UTC)
        if until is None:
            return None
        wanted = (until - now).total_seconds()
    return min(max(wanted, 1), _MAX_RETRY_AFTER_S)


def _date(value: str) -> datetime | None:
    """Return an HTTP date in any of its forms (RFC 9110, section 5.6.7)."""
    try:
        found = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _reason(exc: Exception) -> object:
    """Return what says why, without the URL that `MaxRetryError` names whole: queries hold secrets."""
    inner = exc.args[0] if exc.args else None
    return inner.reason if isinstance(inner, MaxRetryError) else exc
