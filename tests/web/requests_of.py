"""Requests as the parsers see them, made without a server."""

from __future__ import annotations

from werkzeug.wrappers import Request


def request_of(content_type: str | None, *, query: str = "", **headers: str) -> Request:
    """Return a request with these headers; its body is given to the parser apart."""
    environ = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}
    if content_type is not None:
        environ["CONTENT_TYPE"] = content_type
    return Request({"REQUEST_METHOD": "POST", "QUERY_STRING": query, **environ})


def multipart(*parts: tuple[str, bytes], boundary: str = "x") -> bytes:
    """Return a form of parts, each with its header lines as they are given."""
    mark = boundary.encode()
    written = b"".join(b"--%s\r\n%s\r\n\r\n%s\r\n" % (mark, head.encode(), content) for head, content in parts)
    return written + b"--%s--\r\n" % mark
