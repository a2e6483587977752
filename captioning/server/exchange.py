"""One request and its answer as HTTP/1: h11 keeps the protocol's rules, and what it is lax about is checked here."""

from __future__ import annotations

import io
import re
import time
from email.utils import formatdate
from http import HTTPStatus

import h11

MAX_HEAD_BYTES = 32_768
"""As nginx by default (large_client_header_buffers). Times the connections this is memory: 35 MB at the most."""

_MAX_LINE_BYTES = 8_190  # the request's line, and each field: as Apache (LimitRequestLine, LimitRequestFieldSize)
_MAX_FIELDS = 100
_MAX_CHUNK_LINE_BYTES = 4_096
_FREE_CHUNKS, _LEAST_CHUNK_BYTES = 1_000, 64  # smaller ones, and the parser would be kept busy for next to no bytes

_HEAD_END = b"\r\n\r\n"
# Controls, a bare CR or LF, a folded line: two parsers in a row may read them in two ways (RFC 9112, 2.2 and 5.2).
_AMBIGUOUS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n|\r\n[ \t]")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(:[0-9]*)?")  # RFC 9110, section 7.2
_SINGLE_FIELDS = (b"host", b"content-type")


class BadHttp(Exception):
    """What cannot be parsed, with the status that HTTP has for it (RFC 9110, section 15; RFC 6585, section 5)."""

    def __init__(self, what: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        self.status = status
        super().__init__(what)


def head_length(received: bytearray, searched: int) -> int:
    """Return how many bytes of what came are a request's head, or 0 while it is not whole; look from ``searched`` on.

    Raises:
        BadHttp: it will never be whole, or is too long.
    """
    end = received.find(_HEAD_END, searched)
    if end >= 0:
        return end + len(_HEAD_END)
    if _BARE_LF.search(received, searched):
        raise BadHttp("bare LF as line terminator")
    if len(received) > MAX_HEAD_BYTES:
        raise BadHttp("endless head", HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    return 0


class Exchange:
    """One request, as far as it has come, and the state of its answer."""

    def __init__(self, head: bytes) -> None:
        """Parse a whole head.

        Raises:
            BadHttp: it is not valid HTTP/1.
        """
        self.arrived_at = time.monotonic()
        self.body = io.BytesIO()
        self.chunks = 0
        self.complete = False
        self._http = h11.Connection(h11.SERVER, _MAX_CHUNK_LINE_BYTES)
        _check_bytes(head)
        try:
            self._http.receive_data(head)
            request = self._http.next_event()
        except h11.RemoteProtocolError as error:
            raise BadHttp(str(error), HTTPStatus(error.error_status_hint)) from error
        assert isinstance(request, h11.Request)
        self.request = request
        self.fields = _checked_fields(request)
        if not (self.fields.get(b"content-length", b"0").strip(b"0") or b"transfer-encoding" in self.fields):
            self.receive(b"")

    def text_headers(self) -> list[tuple[str, str]]:
        """Return the fields as text, for a log."""
        return [(name.decode("ascii"), value.decode("latin-1")) for name, value in self.request.headers]

    @property
    def content_length(self) -> int | None:
        """Return the body's length as declared; none for one that comes in chunks."""
        if b"transfer-encoding" in self.fields:
            return None
        return int(self.fields.get(b"content-length", b"0"))

    @property
    def waits_to_be_asked(self) -> bool:
        """Tell whether the client sends its body only when it is told to go on."""
        return self._http.they_are_waiting_for_100_continue

    def go_on(self) -> bytes:
        """Return the interim answer that asks for the body."""
        return bytes(self._http.send(h11.InformationalResponse(status_code=100, headers=[], reason="Continue")))

    def receive(self, piece: bytes) -> None:
        """Take the next bytes of the body.

        Raises:
            BadHttp: its chunks are broken, or absurdly small.
        """
        if piece:
            self._http.receive_data(piece)
        try:
            while not self.complete:
                event = self._http.next_event()
                if isinstance(event, h11.Data):
                    self.body.write(event.data)
                    self.chunks += event.chunk_start
                elif isinstance(event, h11.EndOfMessage):
                    self.complete = True
                else:
                    break
        except h11.RemoteProtocolError as error:
            raise BadHttp(str(error)) from error
        if self.chunks > _FREE_CHUNKS + self.body.tell() // _LEAST_CHUNK_BYTES:
            raise BadHttp("too many small chunks")

    def take_body(self) -> bytes:
        """Return what came of the body, and keep none of it."""
        body, self.body = self.body, io.BytesIO()
        return body.getvalue()

    def left_over(self) -> bytes:
        """Return what came behind the request: the next one's beginning."""
        return self._http.trailing_data[0]

    @property
    def unanswered(self) -> bool:
        """Tell whether nothing of an answer has been sent."""
        return self._http.our_state is h11.SEND_RESPONSE

    def start_answer(self, status: str, headers: list[tuple[str, str]], *, close: bool) -> bytes:
        """Return the answer's head; ``close`` announces that the connection ends with it."""
        code, _, reason = status.partition(" ")
        framed = [("Date", formatdate(usegmt=True)), *headers, *([("Connection", "close")] if close else [])]
        self._omits_body = self.request.method == b"HEAD" or code in ("204", "304")
        return bytes(self._http.send(h11.Response(status_code=int(code), reason=reason, headers=framed)))

    def answer_piece(self, data: bytes) -> bytes:
        """Return a piece of the answer's body as it goes over the wire."""
        return b"" if self._omits_body or not data else bytes(self._http.send(h11.Data(data=data)))

    def end_answer(self) -> bytes:
        """Return what ends the answer."""
        return bytes(self._http.send(h11.EndOfMessage()))

    @property
    def reusable(self) -> bool:
        """Tell whether the connection may serve another request after this one."""
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE


def _check_bytes(head: bytes) -> None:
    line, *fields = head.removesuffix(_HEAD_END).split(b"\r\n")
    if len(line) > _MAX_LINE_BYTES:
        raise BadHttp("long request line", HTTPStatus.REQUEST_URI_TOO_LONG)
    if len(fields) > _MAX_FIELDS or any(len(field) > _MAX_LINE_BYTES for field in fields):
        raise BadHttp("too many or too long fields", HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    if _AMBIGUOUS.search(head):
        raise BadHttp("a control character, a bare CR or LF, or a folded line")


def _checked_fields(request: h11.Request) -> dict[bytes, bytes]:
    """Return the fields that shape the message, each at most once."""
    fields: dict[bytes, bytes] = {}
    for name, value in request.headers:
        if name in _SINGLE_FIELDS and name in fields:
            raise BadHttp(f"more than one {name.decode()}")
        fields[name] = value
    if request.http_version not in (b"1.0", b"1.1"):
        raise BadHttp("not HTTP/1", HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
    if not request.target.startswith((b"/", b"http://", b"https://")):
        raise BadHttp("a target that is no path")
    if not _HOST.fullmatch(fields.get(b"host", b"")):
        raise BadHttp("a Host that is none")
    if b"transfer-encoding" in fields and (b"content-length" in fields or request.http_version == b"1.0"):
        raise BadHttp("a body that is framed in two ways")
    if request.http_version == b"1.1" and fields.get(b"expect", b"100-continue").lower() != b"100-continue":
        raise BadHttp("an unknown expectation", HTTPStatus.EXPECTATION_FAILED)
    return fields
