"""Between an exchange and the WSGI application (PEP 3333)."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

import h11

from captioning.server.exchange import BadHttp, Exchange

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


def make_environ(request: h11.Request, *, client: Any, server: Any, script_name: str) -> Environ:
    """Describe the request; ``script_name`` is the prefix of all paths that are served.

    Raises:
        BadHttp: the path is not below the prefix.
    """
    target = request.target.decode("ascii").partition("#")[0]
    if not target.startswith("/"):
        target = "/" + target.partition("://")[2].partition("/")[2]  # the absolute form (RFC 9112, section 3.2.2)
    path, _, query = target.partition("?")
    if not f"{path}/".startswith(f"{script_name}/"):
        raise BadHttp(f"a path that is not below {script_name}", HTTPStatus.NOT_FOUND)
    environ: Environ = {
        "REQUEST_METHOD": request.method.decode("ascii"),
        "SCRIPT_NAME": script_name,
        "PATH_INFO": unquote_to_bytes(path.removeprefix(script_name)).decode("latin-1"),
        "QUERY_STRING": query,
        "RAW_URI": request.target.decode("ascii"),
        "SERVER_PROTOCOL": f"HTTP/{request.http_version.decode('ascii')}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),  # a body that is wanted comes as an `ArrivedBody`
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    # A Unix socket's address is a text, and often empty.
    environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = _address(client)
    environ["SERVER_NAME"], environ["SERVER_PORT"] = _address(server)
    for name, value in request.headers:
        if b"_" in name:
            continue  # it would pass for the one with a hyphen
        key = name.decode("ascii").upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        text = value.decode("latin-1")
        environ[key] = f"{environ[key]},{text}" if key in environ else text
    return environ


def _address(address: Any) -> tuple[str, str]:
    return (address[0], str(address[1])) if isinstance(address, tuple) else ("", "")


class Answer:
    """What the application answered to one exchange, sent as it is made."""

    def __init__(self, exchange: Exchange, send: Callable[[bytes], None], *, close: bool) -> None:
        """Prepare; ``close`` announces that the connection ends with this answer."""
        self.status = ""
        self.headers: list[tuple[str, str]] = []
        self.sent = 0
        self._exchange = exchange
        self._send = send
        self._close = close

    def run(self, application: Application, environ: Environ) -> None:
        """Call the application and send what it answers; its iterable is closed here, however this ends."""
        pieces = application(environ, self._start_response)
        try:
            whole = any(name.lower() == "content-length" for name, _ in self.headers)
            if whole:
                self._write(b"".join(pieces))
            else:
                for piece in pieces:
                    self._write(piece)
            self._write(b"", last=True)
        finally:
            if hasattr(pieces, "close"):
                pieces.close()

    def _start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[..., None]:
        if exc_info and not self._exchange.unanswered:
            raise exc_info[1]
        self.status, self.headers = status, headers
        return self._write

    def _write(self, piece: bytes, *, last: bool = False) -> None:
        data = b""
        if self._exchange.unanswered:
            data = self._exchange.start_answer(self.status, self.headers, close=self._close)
        data += self._exchange.end_answer() if last else self._exchange.answer_piece(piece)
        self.sent += len(piece)
        if data:
            self._send(data)
