"""Captions in a Redis or Valkey server that instances share. Whatever goes wrong with it is a miss.

One thread and one connection per process speak to the server. Requests wait for that thread, a few milliseconds at
most, and never for the server: no name look-up, TLS handshake or slow answer can hold them up.
"""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future
from typing import Annotated, Literal
from urllib.parse import urlsplit

import redis
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from redis.backoff import NoBackoff
from redis.retry import Retry

from captioning.cache.bounded_socket import BoundedSocket
from captioning.cache.captions import CacheEntry
from captioning.cache.circuit_breaker import CircuitBreaker
from captioning.model.engine import Caption
from captioning.settings import MAX_NEW_TOKENS_LIMIT, NUM_BEAMS_LIMIT

# The longest that a request waits: several times what a healthy server in the same network takes (0.2 to 1 ms), and
# little beside making a caption.
PATIENCE_S = 0.005
# The longest that the thread waits. A new connection with TLS, or a busy moment of this process, may take more than
# a request waits.
ANSWER_TIMEOUT_S = 0.25
# How long a server that failed is left alone.
PAUSE_S = 5.0

_MAX_WAITING = 64  # commands
_MAX_CAPTION_CHARACTERS = 3000  # a prompt of 500 characters, each a token, then 100 tokens of 20 characters
_MAX_ENTRY_BYTES = 16_384 * NUM_BEAMS_LIMIT  # as many such captions in UTF-8, and the rest of their entry
_MAX_ANSWER_BYTES = 2 * _MAX_ENTRY_BYTES

# What redis-py raises, whatever a server sends: its parser lets errors of its own bugs through.
_CLIENT_ERRORS = (redis.RedisError, OSError, ValueError, ArithmeticError, RecursionError)

_Command = tuple[str | bytes | int, ...]


def _printable(text: str) -> str:
    """Refuse controls, direction marks, lone surrogates and line breaks, none of which a model writes."""
    if not text.isprintable():
        raise ValueError("not printable")
    return text


class _StoredCaption(BaseModel):
    """A caption as the server holds it; see `captioning.model.engine.Caption`."""

    model_config = ConfigDict(strict=True, extra="forbid", from_attributes=True)

    text: Annotated[str, Field(min_length=1, max_length=_MAX_CAPTION_CHARACTERS), AfterValidator(_printable)]
    confidence: Annotated[float, Field(ge=0, le=1)]
    score: Annotated[float, Field(allow_inf_nan=False)]
    tokens: Annotated[int, Field(ge=0, le=MAX_NEW_TOKENS_LIMIT)]
    finish_reason: Literal["end", "length"]


class _StoredEntry(BaseModel):
    """An entry as the server holds it: with its key, so that an answer to another command is noticed."""

    model_config = ConfigDict(strict=True, extra="forbid")

    key: str
    candidates: Annotated[list[_StoredCaption], Field(min_length=1, max_length=NUM_BEAMS_LIMIT)]
    expires_at: Annotated[float, Field(allow_inf_nan=False)]  # Unix time


class RedisStore:
    """A `captioning.cache.captions.SharedStore` in a Redis or Valkey server."""

    def __init__(self, url: str) -> None:
        self._url = url
        parts = urlsplit(url)
        where = parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"
        cache = f"The caption cache at {where}"
        self._server = CircuitBreaker(f"{cache} cannot be used", f"{cache} can be used again", pause_s=PAUSE_S)
        self._writing = CircuitBreaker(
            f"{cache} takes no new captions", f"{cache} takes new captions again", pause_s=PAUSE_S
        )
        self._commands: queue.Queue[tuple[_Command, Future[object]]] = queue.Queue(_MAX_WAITING)
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def get(self, key: str) -> CacheEntry | None:
        """Return the entry, unless there is none or the server does not give it at once."""
        # GETRANGE, because GET would fetch whatever is stored there, be it hundreds of megabytes.
        answer = self._submit("GETRANGE", key, 0, _MAX_ENTRY_BYTES)
        if answer is None:
            return None
        try:
            value = answer.result(timeout=PATIENCE_S)
        except TimeoutError:
            answer.cancel()
            return None
        return _read(key, value) if isinstance(value, bytes) else None

    def put(self, key: str, entry: CacheEntry) -> None:
        """Store the entry some time later: nobody waits for that."""
        if self._writing.is_open:
            return
        try:
            candidates = [_StoredCaption.model_validate(caption) for caption in entry.candidates]
            stored = _StoredEntry(key=key, candidates=candidates, expires_at=time.time() + entry.ttl_s)
        except ValidationError:  # no instance would read it
            return
        self._submit("SET", key, stored.model_dump_json().encode(), "PX", max(1, int(entry.ttl_s * 1000)))

    def _submit(self, *command: str | bytes | int) -> Future[object] | None:
        """Queue a command for the thread, unless the server is left alone or too many commands wait."""
        if self._server.is_open:
            return None
        with self._starting:  # not earlier: a process that forks after the application was made would lose the thread
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="shared cache", daemon=True)
                self._thread.start()
        answer: Future[object] = Future()
        try:
            self._commands.put_nowait((command, answer))
        except queue.Full:
            return None
        return answer

    def _run(self) -> None:
        client = _client(self._url)
        while True:
            command, answer = self._commands.get()
            if answer.set_running_or_notify_cancel():
                answer.set_result(None if self._server.is_open else self._exchange(client, command))

    def _exchange(self, client: redis.Redis, command: _Command) -> object:
        """Send a command and return the server's answer, or none when it gives none or an error."""
        writes = command[0] == "SET"
        try:
            answer: object = client.execute_command(*command)
            if answer is not True and not isinstance(answer, bytes):
                raise redis.InvalidResponse("not an answer to GETRANGE or SET")
        except _CLIENT_ERRORS as error:
            refused = isinstance(error, redis.ResponseError)
            if refused and str(error).startswith("WRONGTYPE"):
                return None
            # A server that is full, or a replica, refuses to write: reading goes on.
            (self._writing if refused and writes else self._server).record_failure(_reason(error))
            return None
        self._server.record_success()
        if writes:
            self._writing.record_success()
        return answer


def _client(url: str) -> redis.Redis:
    """Make a client that does not retry, and that sends nothing before the first command but AUTH and SELECT."""
    return redis.Redis.from_url(
        url,
        protocol=2,
        driver_info=None,
        socket_connect_timeout=ANSWER_TIMEOUT_S,
        socket_timeout=ANSWER_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        redis_connect_func=_on_connect,
    )


def _on_connect(connection: redis.Connection) -> None:
    bounded = BoundedSocket(connection._sock, timeout_s=ANSWER_TIMEOUT_S, max_bytes=_MAX_ANSWER_BYTES)  # type: ignore[arg-type]
    connection._sock = bounded  # type: ignore[assignment]
    connection.on_connect()


def _read(key: str, value: bytes) -> CacheEntry | None:
    """Check what another instance, or anybody else, has written."""
    try:
        stored = _StoredEntry.model_validate_json(value)
    except ValidationError:
        return None
    ttl_s = stored.expires_at - time.time()
    if stored.key != key or ttl_s <= 0:
        return None
    return CacheEntry(tuple(Caption(**dict(caption)) for caption in stored.candidates), ttl_s)


def _reason(error: Exception) -> str:
    """Word an error for the log. Of a server's own words it takes the code alone: the rest may repeat the password."""
    if isinstance(error, redis.TimeoutError):
        return f"it does not answer within {ANSWER_TIMEOUT_S} s"
    if isinstance(error, redis.ResponseError) or getattr(error, "status_code", None):
        code = getattr(error, "status_code", None) or str(error).partition(" ")[0]
        return f"it answers {code}" if code.isalpha() and code.isupper() else "it answers an error"
    if isinstance(error, (redis.ConnectionError, OSError)):
        return str(error).rstrip(".") or type(error).__name__
    return "what it answers is not Redis's protocol"
