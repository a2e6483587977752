"""What Ray Serve's proxies do beside passing requests on: they answer in this service's form where no replica does.

A proxy loads `middlewares` where RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH is ``distributed.proxy.middlewares``.
"""

from __future__ import annotations

import uuid
from typing import Any

from starlette.middleware import Middleware

from captioning.errors import CaptioningError, DeadlineExceeded, ModelLoading, Overloaded, ShuttingDown
from captioning.web.answers import ErrorAnswer
from captioning.web.request_log import is_sane_request_id
from distributed.asgi import Message, Receive, Send

_OF_A_REPLICA = b"x-content-type-options"  # every answer of the application has it

# What Serve's status means for the caller.
_ERRORS: dict[int, type[CaptioningError]] = {
    404: ModelLoading,  # the application is not deployed yet
    408: DeadlineExceeded,
    429: Overloaded,
    503: ShuttingDown,  # the replicas that there were are going
}


class SameAnswers:
    """An ASGI middleware around a proxy: one request id an answer, and errors as JSON."""

    def __init__(self, app: Any) -> None:
        """Wrap the proxy."""
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back."""
        if scope["type"] != "http" or scope["path"].startswith("/-/"):  # Serve's own health check and routes
            await self._app(scope, receive, send)
            return
        given = b"".join(value for name, value in scope["headers"] if name == b"x-request-id").decode("latin-1")
        request_id = given if is_sane_request_id(given) else uuid.uuid4().hex
        own_id = request_id.encode()
        others = [(name, value) for name, value in scope["headers"] if name != b"x-request-id"]
        scope = {**scope, "headers": [*others, (b"x-request-id", own_id)]}
        head: Message | None = None
        begun = replaced = False

        async def send_alike(message: Message) -> None:
            nonlocal head, begun, replaced
            if message["type"] == "http.response.start":
                headers = {name.lower(): value for name, value in message["headers"]} | {b"x-request-id": own_id}
                error = None if _OF_A_REPLICA in headers else _ERRORS.get(message["status"])
                if error is not None:
                    begun = replaced = True
                    await _send_error(error(), request_id, send)
                # It is kept until some of the body is there: a replica may die between the two.
                head = {**message, "headers": list(headers.items())}
            elif not replaced:
                if head is not None:
                    await send(head)
                    head = None
                begun = True
                await send(message)

        await self._app(scope, receive, send_alike)
        if not begun:  # the replica died with the request; to a caller who has gone, this is sent in vain
            await _send_error(ShuttingDown(), request_id, send)


async def _send_error(error: CaptioningError, request_id: str, send: Send) -> None:
    told = ErrorAnswer(error=error.message, code=error.code, request_id=request_id)
    body = told.model_dump_json(by_alias=True).encode() + b"\n"
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", b"1"),
        (b"x-content-type-options", b"nosniff"),
        (b"x-request-id", request_id.encode()),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def middlewares() -> list[Middleware]:
    """Return what a proxy shall be wrapped in."""
    return [Middleware(SameAnswers)]
