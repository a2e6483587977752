"""Captions in a Redis or Valkey server that instances share: whatever ails it is a miss, within milliseconds.

One thread and one connection per process speak to the server. Requests wait for that thread, not for the server, so
that no name look-up, TLS handshake or dripping answer holds them up; what they do not get in time, they go without.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from concurrent.futures import Future
from typing import Annotated
from urllib.parse import urlsplit

import redis
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis.connection import ConnectionInterface

from captioning.cache.captions import Kept
from captioning.cache.redis_parser import BoundedParser

log = logging.getLogger("captioning.cache")

# What a request waits at most: several times what a healthy server in the same network takes (0.2 to 1 ms), and
# nothing beside a caption. An answer that takes longer costs this much and helps nobody.
PATIENCE_S = 0.005
# After this long without an answer the server counts as gone. It is longer, because a new connection with TLS, or a
# busy moment of this process, may well take more than a request waits.
ANSWER_TIMEOUT_S = 0.25
# How long a server that failed is left alone.
PAUSE_S = 5.0

_MAX_ENTRY_BYTES = 8192  # a caption of 100 tokens with a prompt of 500 characters is far below
_MAX_WAITING = 256  # commands; more than ever wait, unless the server hangs

Command = tuple[str | bytes | int, ...]


class _Entry(BaseModel):
    """Hold what stands in the server: with its key, so that an answer to another question is noticed."""

    model_config = ConfigDict(strict=True, extra="forbid")

    key: str
    caption: str
    expires_at: Annotated[float, Field(allow_inf_nan=False)]  # Unix time


class SharedCache:
    """Keep captions in the server; see `captioning.cache.captions.Store`."""

    def __init__(self, url: str) -> None:
        self._url = url
        parts = urlsplit(url)
        where = parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"
        self._server = CircuitBreaker(f"The caption cache at {where} cannot be used")
        self._writing = CircuitBreaker(f"The caption cache at {where} takes no new captions")
        self._commands: queue.Queue[tuple[Command, Future[bytes | None]]] = queue.Queue(_MAX_WAITING)
        self._busy_since = math.inf
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def get(self, key: str) -> Kept | None:
        """Return the caption, unless there is none or the server does not give it at once."""
        # GETRANGE, because a GET would fetch whatever stands there, be it hundreds of megabytes.
        answer = self._ask("GETRANGE", key, 0, _MAX_ENTRY_BYTES)
        if answer is None:
            return None
        try:
            value = answer.result(timeout=PATIENCE_S)
        except TimeoutError:
            answer.cancel()
            return None
        return _read(key, value) if value else None

    def put(self, key: str, kept: Kept) -> None:
        """Keep the caption, some time later: nobody waits for that."""
        if self._writing.is_open:
            return
        entry = _Entry(key=key, caption=kept.caption, expires_at=time.time() + kept.seconds_left)
        value = entry.model_dump_json().encode()
        if len(value) <= _MAX_ENTRY_BYTES:
            self._ask("SET", key, value, "PX", max(1, int(kept.seconds_left * 1000)))

    def _ask(self, *command: str | bytes | int) -> Future[bytes | None] | None:
        """Hand a command to the thread, unless the server is out of order."""
        if self._server.is_open or time.monotonic() - self._busy_since > ANSWER_TIMEOUT_S:
            return None
        self._start()
        answer: Future[bytes | None] = Future()
        try:
            self._commands.put_nowait((command, answer))
        except queue.Full:
            return None
        return answer

    def _start(self) -> None:
        # Not before it is needed: a process that forks after the application was made would lose the thread.
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="shared cache", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        connection = _connection(self._url)
        while True:
            command, answer = self._commands.get()
            if answer.set_running_or_notify_cancel():
                self._busy_since = time.monotonic()
                answer.set_result(None if self._server.is_open else self._exchange(connection, command))
                self._busy_since = math.inf

    def _exchange(self, connection: ConnectionInterface, command: Command) -> bytes | None:
        """Send a command and return what the server answers, or none when it does not or says an error."""
        try:
            if connection.is_connected and connection.can_read():
                connection.disconnect()  # the server closed it while it was idle, or spoke unasked
            connection.send_command(*command)
            answer: bytes | None = connection.read_response(disable_decoding=True)
        except Exception as error:  # noqa: BLE001 - whatever it is, the service goes on without this cache
            refused = isinstance(error, redis.ResponseError) and connection.is_connected
            if refused and str(error).startswith("WRONGTYPE"):
                return None
            if refused and command[0] == "SET":
                self._writing.failed(error)  # full, or a replica: reading goes on
            else:
                connection.disconnect()
                self._server.failed(error)
            return None
        self._server.worked()
        if command[0] == "SET":
            self._writing.worked()
        return answer


class CircuitBreaker:
    """Leave alone for some seconds what failed; log the begin of each outage, and its end."""

    def __init__(self, complaint: str) -> None:
        self._complaint = complaint
        self._open_until = -math.inf
        self._failing = False

    @property
    def is_open(self) -> bool:
        """Tell whether it is to be left alone."""
        return time.monotonic() < self._open_until

    def failed(self, error: Exception) -> None:
        """Leave it alone from now on."""
        self._open_until = time.monotonic() + PAUSE_S
        if not self._failing:
            log.warning("%s: %s. It is tried again every %.0f s.", self._complaint, _reason(error), PAUSE_S)
        self._failing = True

    def worked(self) -> None:
        """End the outage, if there was one."""
        if self._failing:
            log.warning("%s: this is over.", self._complaint)
        self._failing = False


def _connection(url: str) -> ConnectionInterface:
    """Make a connection, not open yet: without retries, and with nothing said before the first command but AUTH."""
    return redis.ConnectionPool.from_url(
        url,
        protocol=2,
        driver_info=None,
        socket_connect_timeout=ANSWER_TIMEOUT_S,
        socket_timeout=ANSWER_TIMEOUT_S,
        parser_class=BoundedParser,
    ).make_connection()


def _read(key: str, value: bytes) -> Kept | None:
    """Check what another instance, or somebody else, has written."""
    try:
        entry = _Entry.model_validate_json(value)
    except ValidationError:
        return None
    seconds_left = entry.expires_at - time.time()
    return Kept(entry.caption, seconds_left) if entry.key == key and seconds_left > 0 else None


def _reason(error: Exception) -> str:
    """Word an error for the log: of what the server says only the code, for the rest may repeat the password."""
    if isinstance(error, redis.ResponseError):
        code = str(error).partition(" ")[0]
        return f"it answers {code}" if code.isalpha() and code.isupper() else "it answers an error"
    if isinstance(error, redis.InvalidResponse):
        return "what it answers is not Redis's protocol"
    if isinstance(error, redis.TimeoutError):
        return f"it does not answer within {ANSWER_TIMEOUT_S} s"
    return str(error).rstrip(".") or type(error).__name__
