"""From a body as it was packed for its way to the picture inside.

Servers label bodies wrongly: as ``utf-8``, ``none`` or ``aws-chunked``, as gzip what is plain, as plain what is
gzip. So a body's own first bytes tell how it is packed, as far as they can; Content-Encoding is asked about the
codings that have no sure beginning, and what else it says is ignored.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Protocol

import brotli
from backports import zstd

from captioning.deadline import Deadline
from captioning.errors import ImageFetchFailed
from captioning.limits import check_image_bytes

_NAMES = ("gzip", "x-gzip", "deflate", "br", "zstd")
_PIECE = 65_536
# A body that is packed more often hides something.
_MAX_LAYERS = 3
_HEAD_BYTES = 12
_MEMBER_BYTES = 4
_MAX_MEMBERS = 1000
# Brotli and raw deflate may begin with any byte, but do not begin as pictures do.
_PICTURE = re.compile(rb"\xff\xd8\xff|\x89PNG|GIF8|RIFF....WEBP|BM....\0\0\0\0|II\*\0|MM\0\*|....ftyp", re.DOTALL)


class EndedEarly(ImageFetchFailed):
    """A body that is shorter than was announced; ``content`` is what the fetcher had of it, unpacked.

    What is missing may cost no pixel, such as the trailer of a gzip body: browsers show the picture then.
    """

    sentence = "The image's server ended the image early."
    content = b""


class _Decompressor(Protocol):
    """What the standard library's decompressors have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


@dataclass(frozen=True)
class _Coding:
    """A way to pack bytes: what undoes it or raises what; how each member begins; whether its output is kept."""

    decompressor: Callable[[], _Decompressor]
    failure: type[Exception]
    begins: re.Pattern[bytes] | None = None
    large_window: bool = False


def known_codings(labels: str) -> list[str]:
    """Return the last of Content-Encoding's labels that name a way to pack, as many as are undone."""
    return [name for name in re.findall(r"[a-z0-9-]+", labels.lower()) if name in _NAMES][-_MAX_LAYERS:]


def unpacked(
    pieces: Iterable[bytes],
    codings: list[str],
    *,
    max_bytes: int,
    deadline: Deadline,
    on_bytes: Callable[[int], None],
) -> Iterator[bytes]:
    """Return a body's pieces unpacked, as its own first bytes say, and where they do not, its `known_codings`.

    No layer is unpacked beyond ``max_bytes``, nor by more than a piece ahead of what is taken. ``on_bytes`` is told
    of what a decompressor keeps beside its output.

    Raises:
        ImageTooLarge, ImageFetchFailed, TimedOut: from the iterator too.
    """
    for _ in range(_MAX_LAYERS):
        head, pieces = _peeked(pieces)
        coding, codings = _coding(head, codings)
        if coding is None:
            break
        pieces = _limited(_members(pieces, coding, deadline), max_bytes, on_bytes if coding.large_window else None)
    return iter(pieces)


def _coding(head: bytes, named: list[str]) -> tuple[_Coding | None, list[str]]:
    """Tell how a body is packed, and what is named beneath that."""
    for coding in (_GZIP, _ZSTD):
        if coding.begins and coding.begins.match(head):
            return coding, named[:-1]
    beneath = list(named)
    while beneath and head and not _PICTURE.match(head):
        name = beneath.pop()
        if name == "deflate":  # with zlib's header, as RFC 9110 has it, or without, as some servers have it
            return (_ZLIB if _is_zlib(head) else _RAW_DEFLATE), beneath
        if name == "br":
            return _BROTLI, beneath
    return None, []


def _is_zlib(head: bytes) -> bool:
    return head[0] & 0x8F == 0x08 and int.from_bytes(head[:2], "big") % 31 == 0  # RFC 1950, section 2.2


def _peeked(pieces: Iterable[bytes]) -> tuple[bytes, Iterator[bytes]]:
    rest = iter(pieces)
    head = b""
    for piece in rest:
        head += piece
        if len(head) >= _HEAD_BYTES:
            break
    return head, chain([head], rest)


def _limited(pieces: Iterable[bytes], max_bytes: int, on_bytes: Callable[[int], None] | None) -> Iterator[bytes]:
    size = 0
    for piece in pieces:
        size += len(piece)
        check_image_bytes(size, max_bytes)
        if on_bytes is not None:
            on_bytes(len(piece))
        yield piece


def _members(pieces: Iterable[bytes], coding: _Coding, deadline: Deadline) -> Iterator[bytes]:
    """Unpack one member after the other (RFC 1952, section 2.2); what follows the last is ignored."""
    decompressor = coding.decompressor()
    members = 1
    between = b""
    cut = EndedEarly()
    try:
        for piece in pieces:
            data = between + piece
            while data or not decompressor.needs_input:
                if decompressor.eof:
                    data = data.lstrip(b"\0")
                    if len(data) < _MEMBER_BYTES:
                        break
                    if coding.begins is None or not coding.begins.match(data):
                        return
                    if members == _MAX_MEMBERS:  # each takes work, even one of nothing
                        raise ImageFetchFailed(f"The image is packed in more than {_MAX_MEMBERS:,} members.")
                    decompressor = coding.decompressor()
                    members += 1
                deadline.check()  # much work may come to nothing
                if output := decompressor.decompress(data, _PIECE):
                    yield output
                data = decompressor.unused_data
            between = data
    except coding.failure as exc:
        raise _not_unpacked(exc) from exc
    except EndedEarly as exc:
        cut = exc  # of no matter at the coding's end: some servers announce the length of the unpacked body
    if decompressor.eof:
        return
    try:
        while output := decompressor.decompress(b"", _PIECE):  # brotli keeps some back until it is asked again
            yield output
    except coding.failure as exc:
        raise _not_unpacked(exc) from exc
    raise cut


def _not_unpacked(exc: Exception) -> ImageFetchFailed:
    return ImageFetchFailed("The image could not be unpacked.", detail=str(exc))


class _Inflater:
    """zlib's decompressor with the interface of the others."""

    def __init__(self, wbits: int) -> None:
        self._inflate = zlib.decompressobj(wbits)
        self._filled = False

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def needs_input(self) -> bool:
        return not (self._inflate.unconsumed_tail or self._filled or self.eof)

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece = self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)
        self._filled = len(piece) == max_length  # then more may be kept inside
        return piece


class _BrotliDecompressor:
    """brotli's decompressor with the interface of the others."""

    unused_data = b""

    def __init__(self) -> None:
        self._brotli = brotli.Decompressor()
        self._filled = False

    @property
    def eof(self) -> bool:
        return bool(self._brotli.is_finished())

    @property
    def needs_input(self) -> bool:
        return bool(self._brotli.can_accept_more_data()) and not self._filled

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece: bytes = self._brotli.process(data, output_buffer_limit=max_length)
        self._filled = len(piece) >= max_length
        return piece


_ZSTD_WINDOW: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}  # RFC 9659: senders ask for no more
_GZIP = _Coding(partial(_Inflater, 16 + zlib.MAX_WBITS), zlib.error, re.compile(rb"\x1f\x8b"))
_ZLIB = _Coding(partial(_Inflater, zlib.MAX_WBITS), zlib.error)
_RAW_DEFLATE = _Coding(partial(_Inflater, -zlib.MAX_WBITS), zlib.error)
_BROTLI = _Coding(_BrotliDecompressor, brotli.error, large_window=True)
_ZSTD = _Coding(
    partial(zstd.ZstdDecompressor, options=_ZSTD_WINDOW),
    zstd.ZstdError,
    re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),  # RFC 8878, section 3.1
    large_window=True,
)
