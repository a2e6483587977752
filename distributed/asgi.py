"""The service's WSGI application as an ASGI one (https://asgi.readthedocs.io/en/latest/specs/www.html).

Bodies are collected before a thread gets the request, as under gunicorn, with the same limits of size and time;
streamed answers are sent as they are made; and a client that goes is noticed by the work that is done for it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import h11

from captioning.byte_budget import ByteHold
from captioning.errors import BodyTooLarge, CaptioningError, DeadlineExceeded, InvalidRequest
from captioning.server.exchange import BadHttp
from captioning.server.protocol_errors import protocol_error
from captioning.server.wsgi import Application, Environ, make_environ
from captioning.web.body import ARRIVED_BODY, ArrivedBody, BodyRules, ExpectedBody
from captioning.web.request_deadline import ABANDONED, ARRIVED_AT

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class AsgiApplication:
    """A WSGI application in threads of its own."""

    def __init__(self, application: Application, bodies: BodyRules, *, threads: int, script_name: str) -> None:
        """Prepare; ``bodies`` is asked about each body before it is collected."""
        self._application = application
        self._bodies = bodies
        self._script_name = script_name
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="request")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        arrived_at = time.monotonic()
        request = h11.Request(
            method=scope["method"],
            target=scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b""),
            headers=scope["headers"],
            http_version=scope["http_version"],
        )
        client, server = scope.get("client"), scope.get("server")
        try:
            environ = make_environ(
                request, client=tuple(client or ()), server=tuple(server or ()), script_name=self._script_name
            )
        except BadHttp as error:
            await _send_whole(protocol_error(error.status), send)
            return
        gone = threading.Event()
        environ |= {ARRIVED_AT: arrived_at, ABANDONED: gone.is_set}
        if (expected := self._expected_body(environ)) is not None:
            environ[ARRIVED_BODY] = await _collect(receive, self._bodies, expected.deadline_at)
        loop = asyncio.get_running_loop()

        def send_from_thread(message: Message) -> None:
            sent: Future[None] = asyncio.run_coroutine_threadsafe(_as_coroutine(send, message), loop)
            sent.result()

        try:
            await loop.run_in_executor(self._threads, _answer, self._application, environ, send_from_thread, gone)
        finally:
            gone.set()  # Serve cancels this coroutine when the client has gone

    def _expected_body(self, environ: Environ) -> ExpectedBody | None:
        length = environ.get("CONTENT_LENGTH", "")
        if length.isdigit() and int(length) > self._bodies.max_bytes:
            return None
        return self._bodies.expected(environ)


def _answer(application: Application, environ: Environ, send: Callable[[Message], None], gone: threading.Event) -> None:
    """Call the application and send what it answers, in a thread; end early for a client that has gone."""
    begun: list[Message] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        begun[:] = [{"type": "http.response.start", "status": int(status[:3]), "headers": encoded}]

    pieces = application(environ, start_response)
    try:
        for piece in _with_an_end(pieces):
            if gone.is_set():
                return
            while begun:
                send(begun.pop())
            send({"type": "http.response.body", "body": piece, "more_body": piece != b""})
    finally:
        if hasattr(pieces, "close"):
            pieces.close()


def _with_an_end(pieces: Iterable[bytes]) -> Iterable[bytes]:
    yield from filter(None, pieces)
    yield b""


async def _collect(receive: Receive, rules: BodyRules, deadline_at: float) -> ArrivedBody:
    """Return the body, or why it cannot be had."""
    body = bytearray()
    failure: CaptioningError | None = None
    more = True
    try:
        async with asyncio.timeout(deadline_at - time.monotonic()):
            while more and failure is None:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if message["type"] == "http.disconnect":
                    failure = InvalidRequest(f"The request body ended after {len(body):,} bytes.")
                elif len(body) > rules.max_bytes:
                    failure = BodyTooLarge(f"The request body is over the limit of {rules.max_bytes:,} bytes.")
    except TimeoutError:
        failure = DeadlineExceeded("The request's time was over before its body had come.")
    return ArrivedBody(bytes(body), ByteHold(rules.budget), failure)


async def _live(receive: Receive, send: Send) -> None:
    """Say yes to the server's start and end: the replica has its own."""
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


async def _send_whole(message: bytes, send: Send) -> None:
    """Send an HTTP/1 message that was made for a socket."""
    head, _, body = message.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    headers = [(name.lower(), value) for name, _, value in (line.partition(b": ") for line in lines)]
    own = [(name, value) for name, value in headers if name != b"connection"]
    await send({"type": "http.response.start", "status": int(status.split()[1]), "headers": own})
    await send({"type": "http.response.body", "body": body})


async def _as_coroutine(send: Send, message: Message) -> None:
    await send(message)
