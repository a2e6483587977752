"""One request and its answer, over a socket that was dialled for it.

requests does the HTTP, through its transport adapter alone: a ``Session`` would bring proxy variables, ``.netrc``,
a cookie jar, and the reading of every redirect's body (psf/requests#5529). Two things are put in under it. The
request target goes out as it is, where requests and urllib3 would write its escapes anew. And the head of an answer
is read here, because http.client takes no more than 100 lines of it, and knows of interim answers only 100.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from http.client import HTTPResponse
from typing import Any, BinaryIO

from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection

from captioning.errors import ImageFetchFailed
from captioning.fetch.codings import known_codings
from captioning.fetch.dialer import LimitedSocket
from captioning.fetch.urls import Url

_MAX_HEAD_BYTES = 65_536
"""For the headers of an answer and of all interim answers before it."""
_MAX_INTERIM_ANSWERS = 100

# As forgiving as browsers: any version, any case, no reason phrase.
_STATUS_LINE = re.compile(rb"HTTP/\d(?:\.\d)?[ \t]+([1-9]\d\d)(?!\d)", re.IGNORECASE)
_CONTROLS = bytes([*range(0x20), 0x7F])
# What the fetcher asks an answer for. Others may stand there in any number and in any form.
_PASSED_ON = (b"location", b"content-range", b"retry-after", b"date")


class Transport(HTTPAdapter):
    """requests' transport for one request, over one connection."""

    def __init__(self, url: Url, dial: Callable[[], LimitedSocket]) -> None:
        super().__init__()
        self._url = url
        self._pool = _Pool(url.host, url.port, dial=dial, target=url.target)

    def get(self, headers: dict[str, str], timeout_s: float) -> Response:
        """Ask for the URL; return the answer with its body unread."""
        request = PreparedRequest()
        host = self._url.authority
        request.prepare("GET", f"{self._url.scheme}://{host}/", {"Host": host, **headers})
        return self.send(request, stream=True, timeout=timeout_s)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:
        return self._pool

    def build_response(self, req: PreparedRequest, resp: Any) -> Response:
        """Take what is used of an answer, and read no cookies: http.cookiejar warns of a hostile one for ever."""
        answer = Response()
        answer.status_code = resp.status
        answer.headers = CaseInsensitiveDict(resp.headers)
        answer.raw = resp
        return answer

    def close(self) -> None:
        self._pool.close()
        super().close()


class _Answer(HTTPResponse):
    """An answer whose head is read within bytes, and whose body http.client reads."""

    def begin(self) -> None:
        stream = self.fp
        self.fp = io.BufferedReader(io.BytesIO(_final_head(stream)))
        try:
            super().begin()
        finally:
            self.fp = stream


class _Connection(HTTPConnection):
    response_class = _Answer

    def __init__(self, *args: Any, dial: Callable[[], LimitedSocket], target: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._dial = dial
        self._target = target

    def connect(self) -> None:
        self.sock = self._dial()

    def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        super().putrequest(method, self._target, *args, **kwargs)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


def _final_head(stream: BinaryIO) -> bytes:
    """Read the head of the first answer that is not interim (RFC 9110, section 15.2), and write it as http.client's."""
    lines = _lines(stream)
    for _ in range(_MAX_INTERIM_ANSWERS + 1):
        status = _status(lines)
        headers = _headers(lines)
        if status == b"101" or not status.startswith(b"1"):
            return b"\r\n".join([b"HTTP/1.1 " + status, *_canonical(headers), b"", b""])
    raise ImageFetchFailed(f"The image's server sent {_MAX_INTERIM_ANSWERS} interim answers and no other.")


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield lines without their ends, be they CRLF or LF (RFC 9112, section 2.2)."""
    left = _MAX_HEAD_BYTES
    while line := stream.readline(left + 1):
        left -= len(line)
        if left < 0:
            raise ImageFetchFailed(f"The image's server sent more than {_MAX_HEAD_BYTES:,} bytes of headers.")
        yield line.rstrip(b"\r\n")
    raise ImageFetchFailed("The image's server closed the connection before its answer.")


def _status(lines: Iterator[bytes]) -> bytes:
    line = next(filter(None, lines))
    found = _STATUS_LINE.match(line)
    if not found:
        raise ImageFetchFailed("The image's server does not answer in HTTP.", detail=repr(line[:40]))
    return found[1]


def _headers(lines: Iterator[bytes]) -> dict[bytes, list[bytes]]:
    """Return each header's values; continued lines are one (RFC 9112, section 5.2), those without a colon none."""
    whole: list[bytearray] = []
    for line in iter(lines.__next__, b""):
        if line[:1] in b" \t" and whole:
            whole[-1] += b" " + line.strip()
        else:
            whole.append(bytearray(line))
    headers: dict[bytes, list[bytes]] = {}
    for name, colon, value in (bytes(line).partition(b":") for line in whole):
        if colon:
            headers.setdefault(name.strip().lower(), []).append(value.translate(None, _CONTROLS).strip())
    return headers


def _canonical(headers: dict[bytes, list[bytes]]) -> Iterator[bytes]:
    """Yield the headers that count, once each, with one way to tell where the body ends (RFC 9112, section 6.3)."""

    def tokens(name: bytes) -> list[bytes]:
        return [token.strip() for value in headers.get(name, ()) for token in value.split(b",")]

    transfer = [token.lower() for token in tokens(b"transfer-encoding")]
    lengths = set(tokens(b"content-length"))
    if b"chunked" in transfer:
        yield b"Transfer-Encoding: chunked"
    elif len(lengths) > 1:
        raise ImageFetchFailed("The image's server announced two lengths for the image.")
    elif lengths and re.fullmatch(rb"\d{1,18}", length := lengths.pop()):
        yield b"Content-Length: " + length
    # A coding of the transfer (RFC 9112, section 7) is one of the content to who undoes it.
    labels = b",".join([*headers.get(b"content-encoding", ()), *transfer]).decode("latin-1")
    yield b"Content-Encoding: " + ",".join(known_codings(labels)).encode()
    for name in _PASSED_ON:
        if name in headers:
            yield name + b": " + headers[name][0]
