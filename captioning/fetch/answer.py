"""An answer as servers really send it, read within bounds, for http.client.

http.client takes no more than 100 lines of a head, knows of interim answers only 100, and with urllib3 reads a chunk's
size, and what is written beside it, in lines of any length. So head and chunks are read here, and http.client is given
what it can read.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

from captioning.errors import ImageFetchFailed
from captioning.fetch.codings import EndedEarly, known_codings

_MAX_HEAD_BYTES = 65_536
"""For the headers of an answer and of all interim answers before it."""
_MAX_INTERIM_ANSWERS = 100

# As forgiving as browsers: any version, any case, no reason phrase.
_STATUS_LINE = re.compile(rb"HTTP/\d(?:\.\d)?[ \t]+([1-9]\d\d)(?!\d)", re.IGNORECASE)
_CONTROLS = bytes([*range(0x20), 0x7F])
# What the fetcher asks an answer for. Others may stand there in any number and in any form.
_PASSED_ON = (b"location", b"content-range", b"retry-after", b"date")
_MAX_CHUNK_LINE = 4096
_CHUNK_SIZE = re.compile(rb"[ \t]*0*([0-9a-f]{1,15})[ \t]*(?:;|$)", re.IGNORECASE)


class Answer(HTTPResponse):
    """An answer whose head and chunks are read here."""

    _chunks: _Chunks | None = None

    def begin(self) -> None:
        stream = self.fp
        status, headers = _final_head(stream)
        transfer = [token.lower() for token in _tokens(headers, b"transfer-encoding")]
        chunked = b"chunked" in transfer
        lines = [b"HTTP/1.1 " + status, *_canonical(headers, transfer, chunked), b"", b""]
        self.fp = io.BufferedReader(io.BytesIO(b"\r\n".join(lines)))
        try:
            super().begin()
        finally:
            self._chunks = _Chunks(stream) if chunked else None
            self.fp = io.BufferedReader(self._chunks) if self._chunks else stream

    def read(self, amt: int | None = None) -> bytes:
        """Read as http.client does; raise `EndedEarly` where the chunks do, once all that came has been read."""
        data = super().read(amt)
        if not data and self._chunks is not None and self._chunks.cut is not None:
            raise self._chunks.cut
        return data


class _Chunks(io.RawIOBase):
    """The body inside chunks (RFC 9112, section 7.1), whose lines may end in LF as well."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self._left = 0
        self._ended = False
        self.cut: EndedEarly | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return self._read(buffer)
        except EndedEarly as exc:  # raised from here, it would lose what is buffered
            self._left, self._ended, self.cut = 0, True, exc
            return 0

    def _read(self, buffer: Any) -> int:
        if not self._left and not self._ended:
            self._left = self._next_size()
            self._ended = not self._left
        size = self._stream.readinto(memoryview(buffer)[: self._left])
        self._left -= size
        if not size and not self._ended:
            raise EndedEarly
        return size

    def close(self) -> None:
        self._stream.close()
        super().close()

    def _next_size(self) -> int:
        line = self._line() or self._line()  # the first one ends the chunk before
        found = _CHUNK_SIZE.match(line)
        if not found:
            raise EndedEarly(
                "The image's server sent a chunk without a size." if line else None, detail=repr(line[:40])
            )
        size = int(found[1], 16)
        while not size and self._line():
            pass  # trailers
        return size

    def _line(self) -> bytes:
        line = self._stream.readline(_MAX_CHUNK_LINE + 1)
        if len(line) > _MAX_CHUNK_LINE:
            raise ImageFetchFailed("The image's server sent a line of more than 4,096 bytes between two chunks.")
        return line.rstrip(b"\r\n")


_Headers = dict[bytes, list[bytes]]


def _final_head(stream: io.BufferedReader) -> tuple[bytes, _Headers]:
    """Read status and headers of the first answer that is not interim (RFC 9110, section 15.2)."""
    lines = _lines(stream)
    for _ in range(_MAX_INTERIM_ANSWERS + 1):
        status = _status(lines)
        headers = _headers(lines)
        if status == b"101" or not status.startswith(b"1"):
            return status, headers
    raise ImageFetchFailed(f"The image's server sent {_MAX_INTERIM_ANSWERS} interim answers and no other.")


def _lines(stream: io.BufferedReader) -> Iterator[bytes]:
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


def _headers(lines: Iterator[bytes]) -> _Headers:
    """Return each header's values; continued lines are one (RFC 9112, section 5.2), those without a colon none."""
    whole: list[bytearray] = []
    for line in iter(lines.__next__, b""):
        if line[:1] in b" \t" and whole:
            whole[-1] += b" " + line.strip()
        else:
            whole.append(bytearray(line))
    headers: _Headers = {}
    for name, colon, value in (bytes(line).partition(b":") for line in whole):
        if colon:
            headers.setdefault(name.strip().lower(), []).append(value.translate(None, _CONTROLS).strip())
    return headers


def _tokens(headers: _Headers, name: bytes) -> list[bytes]:
    return [token.strip() for value in headers.get(name, ()) for token in value.split(b",")]


def _canonical(headers: _Headers, transfer: list[bytes], chunked: bool) -> Iterator[bytes]:
    """Yield the headers that count, once each; where there are chunks, they tell the length (RFC 9112, section 6.3)."""
    told = () if chunked else _tokens(headers, b"content-length")
    lengths = {int(length) for length in told if re.fullmatch(rb"\d{1,18}", length)}
    if len(lengths) > 1:
        raise ImageFetchFailed("The image's server announced two lengths for the image.")
    for length in lengths:
        yield b"Content-Length: %d" % length
    # A coding of the transfer (RFC 9112, section 7) is one of the content to who undoes it.
    labels = b",".join([*headers.get(b"content-encoding", ()), *transfer]).decode("latin-1")
    yield b"Content-Encoding: " + ",".join(known_codings(labels)).encode()
    for name in _PASSED_ON:
        if name in headers:
            yield name + b": " + headers[name][0]
