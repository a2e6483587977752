"""From a URL that a stranger chose to the bytes behind it.

requests does the HTTP, through its transport adapter alone: a ``Session`` would bring proxy variables,
``.netrc``, a cookie jar, and the reading of every redirect's body (psf/requests#5529). The sockets under
it come from ``captioning.fetch.dialer``, which judges addresses and keeps time.

requests-hardened 1.3.0 is not built upon: it puts one address into the URL before a connection exists,
so there is no second address to try and nowhere to hang a deadline, and its table would be replaced.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from requests import PreparedRequest, Request, Response
from requests import exceptions as requests_exceptions
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, MaxRetryError

from captioning.errors import ImageFetchFailed, ImageNotFound, ImageTooLarge, InvalidImageUrl
from captioning.fetch.dialer import Dialer, FetchDeadline, LimitedSocket

MAX_URL_CHARS = 8_192

_HEADERS = {
    "User-Agent": "smartscan-captioning/1.0",
    "Accept": "image/*",
    "Accept-Encoding": "identity",
    "Connection": "close",
}
_DEFAULT_PORTS = {"http": 80, "https": 443}
_REDIRECTS = (301, 302, 303, 307, 308)
_PIECE = 65_536
# Beside the picture there are headers, chunk sizes and trailers.
_OVERHEAD = 1_048_576
# White space, controls and lone surrogates, none of which RFC 3986 knows.
_NOT_IN_URLS = re.compile(r"[\s\x00-\x20\x7f-\x9f\ud800-\udfff]")
_RESERVED = "!#$%&'()*+,/:;=?@[]~"  # RFC 3986, section 2.2, and the marks that need no escape
_BAD_URL = (
    requests_exceptions.InvalidURL,
    requests_exceptions.MissingSchema,
    requests_exceptions.InvalidSchema,
)
# OSError holds requests' own tree, ssl's and socket's; ValueError holds UnicodeError.
_LIBRARY_FAILURES = (OSError, HTTPError, HTTPException, ValueError)

_Dial = Callable[..., LimitedSocket]


def check_url(url: str) -> None:
    """Raise ``InvalidImageUrl`` for what can be told from the text alone; look nothing up.

    The rules are RFC 3986's, less credentials (its section 3.2.1 deprecates them, section 7.5 says
    why) and less percent-encoded hosts and scope ids, which no public picture needs.
    """
    if len(url) > MAX_URL_CHARS:
        raise InvalidImageUrl(f"The image's URL is longer than {MAX_URL_CHARS:,} characters.")
    if _NOT_IN_URLS.search(url):
        raise InvalidImageUrl(
            "The image's URL holds a space or a control character; percent-encode it (a space is %20)."
        )
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as exc:
        raise InvalidImageUrl("The image's URL is not a valid URL.", detail=str(exc)) from exc
    if parts.scheme not in _DEFAULT_PORTS:
        raise InvalidImageUrl("The image's URL must start with http:// or https://.")
    if "@" in parts.netloc:
        raise InvalidImageUrl("The image's URL must not carry a user name or a password.")
    if not host or "%" in host or "\\" in host:
        raise InvalidImageUrl("The image's URL names no valid host.")


class Fetcher:
    """Download pictures for many threads at once; keep nothing from one fetch to the next."""

    def __init__(
        self,
        *,
        connect_timeout_s: float,
        timeout_s: float,
        max_redirects: int,
        max_bytes: int,
        allowed_ports: frozenset[int] | None,
        allow_private_addresses: bool,
    ) -> None:
        self._timeout_s = timeout_s
        self._max_redirects = max_redirects
        self._max_bytes = max_bytes
        self._dialer = Dialer(
            connect_timeout_s=connect_timeout_s,
            allowed_ports=allowed_ports,
            allow_private_addresses=allow_private_addresses,
        )

    def fetch(
        self, url: str, timeout_s: float | None = None, on_bytes: Callable[[int], None] = lambda size: None
    ) -> bytes:
        """Return the body behind an http or https URL, unpacked.

        ``timeout_s`` is the caller's own remaining time; the shorter of it and the fetcher's counts.
        ``on_bytes`` is called with the size of each piece before it is kept, and may wait or raise.
        Every failure is a ``CaptioningError``.
        """
        deadline = FetchDeadline(self._timeout_s if timeout_s is None else min(timeout_s, self._timeout_s))
        try:
            return self._follow(url, deadline, on_bytes)
        except _BAD_URL as exc:
            # What they say holds the whole URL, and its query may hold secrets.
            raise InvalidImageUrl("The image's URL is not a valid URL.", detail=type(exc).__name__) from exc
        except _LIBRARY_FAILURES as exc:
            deadline.left()  # what breaks after the deadline broke because of it
            untrusted = isinstance(exc, requests_exceptions.SSLError)
            raise ImageFetchFailed(
                "The image's server offers no TLS connection that can be trusted." if untrusted else None,
                detail=f"{type(exc).__name__}: {_reason(exc)}",
            ) from exc

    def _follow(self, url: str, deadline: FetchDeadline, on_bytes: Callable[[int], None]) -> bytes:
        for _ in range(self._max_redirects + 1):
            check_url(url)
            with self._answer(url, deadline) as answer:
                if answer.status_code not in _REDIRECTS or "Location" not in answer.headers:
                    return self._body(answer, deadline, on_bytes)
                url = _redirect_target(url, answer)
        raise ImageFetchFailed(f"The image's URL redirects more than {self._max_redirects} times.")

    @contextmanager
    def _answer(self, url: str, deadline: FetchDeadline) -> Iterator[Response]:
        request = Request("GET", url, headers=_HEADERS).prepare()
        dial = partial(self._dialer.dial, deadline=deadline, max_bytes=2 * self._max_bytes + _OVERHEAD)
        with (
            closing(_Transport(dial)) as transport,
            closing(transport.send(request, stream=True, timeout=deadline.left())) as answer,
        ):
            yield answer

    def _body(self, answer: Response, deadline: FetchDeadline, on_bytes: Callable[[int], None]) -> bytes:
        status = answer.status_code
        if 400 <= status < 500:
            raise ImageNotFound(f"The image's server answered {status}.")
        if status != 200:
            raise ImageFetchFailed(f"The image's server answered {status} where 200 was expected.")
        too_large = ImageTooLarge(f"The image is larger than {self._max_bytes:,} bytes.")
        coding = answer.headers.get("Content-Encoding", "").strip().lower()
        if coding in ("", "identity") and (answer.raw.length_remaining or 0) > self._max_bytes:
            raise too_large
        body = io.BytesIO()
        for piece in _unpacked(answer.raw.stream(_PIECE, decode_content=False), coding):
            deadline.left()
            if body.tell() + len(piece) > self._max_bytes:
                raise too_large
            on_bytes(len(piece))
            body.write(piece)
        return body.getvalue()


class _HttpConnection(HTTPConnection):
    def __init__(self, *args: Any, dial: _Dial, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._dial = dial

    def connect(self) -> None:
        self.sock = self._dial(self._dns_host, self.port, tls=False)


class _HttpsConnection(HTTPSConnection):
    def __init__(self, *args: Any, dial: _Dial, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._dial = dial

    def connect(self) -> None:
        self.sock = self._dial(self._dns_host, self.port, tls=True)
        self.is_verified = True


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


class _Transport(HTTPAdapter):
    """requests' transport for one request, over one connection that is dialled here."""

    def __init__(self, dial: _Dial) -> None:
        super().__init__()
        self._dial = dial
        self._pool: HTTPConnectionPool | None = None

    def get_connection_with_tls_context(
        self, request: PreparedRequest, *args: Any, **kwargs: Any
    ) -> HTTPConnectionPool:
        parts = urlsplit(request.url or "")
        pool = _HttpsPool if parts.scheme == "https" else _HttpPool
        port = parts.port if parts.port is not None else _DEFAULT_PORTS[parts.scheme]
        self._pool = pool(parts.hostname or "", port, dial=self._dial)
        return self._pool

    def build_response(self, req: PreparedRequest, resp: Any) -> Response:
        """Take what is used of an answer, and read no cookies: http.cookiejar warns of a hostile one for ever."""
        answer = Response()
        answer.status_code = resp.status
        answer.headers = CaseInsensitiveDict(resp.headers)
        answer.raw = resp
        return answer

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
        super().close()


def _reason(exc: Exception) -> object:
    """Return what says why, without the URL that `MaxRetryError` names whole: queries hold secrets."""
    inner = exc.args[0] if exc.args else None
    return inner.reason if isinstance(inner, MaxRetryError) else exc


def _redirect_target(url: str, answer: Response) -> str:
    """Return where a redirect leads; a server's Location may hold any bytes (RFC 9110, section 10.2.2)."""
    location = answer.headers["Location"].strip().encode("latin-1")
    try:
        return urljoin(url, quote(location, safe=_RESERVED))
    except ValueError as exc:
        raise ImageFetchFailed("The image's URL redirects to what is not a URL.", detail=str(exc)) from exc


def _unpacked(pieces: Iterable[bytes], coding: str) -> Iterator[bytes]:
    """Undo one gzip or deflate coding, a bounded piece at a time against bombs.

    None was asked for, yet some stores send what they were given, packed. Other codings and several
    layers of them serve no picture.
    """
    if coding in ("", "identity"):
        yield from pieces
        return
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise ImageFetchFailed(f"The image's server packs it as {coding[:40]!r}, which was not asked for.")
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
    for packed in pieces:
        while packed and not unpacker.eof:
            try:
                yield unpacker.decompress(packed, _PIECE)
            except zlib.error as exc:
                raise ImageFetchFailed("The image could not be unpacked.", detail=str(exc)) from exc
            packed = unpacker.unconsumed_tail
        if unpacker.eof:
            return
    raise ImageFetchFailed("The image's server ended the packed image early.")
