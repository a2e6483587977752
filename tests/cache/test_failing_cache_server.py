"""Cache servers that fail, hang or talk nonsense: a miss, one warning, and no request that waits or fails."""

from __future__ import annotations

import logging
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from captioning.cache import redis_store
from captioning.cache.redis_store import RedisStore
from tests.bad_servers import BadServer, Behaviour, Connection, say_nothing
from tests.cache.conftest import ENTRY, CacheServer, entry, eventually, gets, memory_stays_small, outages


def test_a_connection_that_was_closed_while_idle_is_opened_again(
    server: CacheServer, caplog: pytest.LogCaptureFixture
) -> None:
    cache = RedisStore(server.url)
    cache.put("a", ENTRY)
    for _ in range(3):
        gets(cache, "a")
        server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert gets(cache, "a").candidates == ENTRY.candidates
    assert outages(caplog) == []


@pytest.mark.parametrize(
    ("command", "code"),
    [(("CONFIG", "SET", "maxmemory", "1"), "OOM"), (("CONFIG", "SET", "min-replicas-to-write", "1"), "NOREPLICAS")],
)
@pytest.mark.usefixtures("short_pause")
def test_a_server_that_takes_nothing_new_still_gives(
    server: CacheServer, caplog: pytest.LogCaptureFixture, command: tuple[str, ...], code: str
) -> None:
    """It is full, or may not write: one warning, and one line when that is over."""
    cache = RedisStore(server.url)
    cache.put("a", ENTRY)
    gets(cache, "a")
    server.ask(*command)

    def refused() -> bool:
        cache.put("b", ENTRY)
        assert gets(cache, "a").candidates == ENTRY.candidates
        return bool(outages(caplog))

    eventually(refused)
    for _ in range(10):
        time.sleep(0.05)
        refused()
    assert server.ask("EXISTS", "b") == 0
    server.ask(*command[:-1], "0")
    eventually(lambda: refused() and server.ask("EXISTS", "b"))
    first, last = outages(caplog)
    assert f"takes no new captions: it answers {code}" in first
    assert last.endswith("again.")


@pytest.mark.parametrize(("url", "code"), [("redis://:wr0ng@", "WRONGPASS"), ("redis://", "NOAUTH")])
@pytest.mark.usefixtures("short_pause")
def test_a_wrong_password_is_one_warning_and_is_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, url: str, code: str
) -> None:
    caplog.set_level(logging.DEBUG)
    server = CacheServer(tmp_path, requirepass="right")
    cache = RedisStore(f"{url}127.0.0.1:{server.port}")
    try:
        for _ in range(20):
            assert cache.get("a") is None
            cache.put("a", ENTRY)
            time.sleep(0.05)
        (warning,) = outages(caplog)
        assert f"cannot be used: it answers {code}" in warning
        assert "wr0ng" not in caplog.text
    finally:
        server.kill()


def repeat(*pieces: bytes, every_s: float = 0) -> Behaviour:
    """Answer each command with these bytes, piece after piece."""

    def behave(connection: Connection) -> None:
        while command := connection.client.recv(65_536):
            connection.server.requests.append(command)
            for piece in pieces:
                connection.send(piece)
                connection.sleep(every_s)

    return behave


def without_end(start: bytes, more: bytes, every_s: float = 0) -> Behaviour:
    def behave(connection: Connection) -> None:
        connection.client.recv(65_536)
        connection.send(start)
        while not connection.server.stopping.is_set():
            connection.sleep(every_s)
            connection.send(more)

    return behave


def answer_with(answer: bytes) -> Behaviour:
    """Answer the first command, and hang up."""

    def behave(connection: Connection) -> None:
        connection.client.recv(65_536)
        connection.send(answer)

    return behave


def hang_up(connection: Connection) -> None:
    pass


NONSENSE: dict[str, Behaviour] = {
    "hangs up": hang_up,
    "says nothing": say_nothing,
    "hangs up after the command": answer_with(b""),
    "random bytes": repeat(os.urandom(100) + b"\r\n"),
    "zeros": repeat(bytes(10_000)),
    "HTTP": repeat(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"),
    "an integer": repeat(b":5\r\n"),
    "an array": repeat(b"*2\r\n$1\r\na\r\n$1\r\nb\r\n"),
    "arrays within arrays": repeat(b"*1\r\n" * 100_000),
    "a map": repeat(b"%1\r\n+a\r\n+b\r\n"),
    "no length": repeat(b"$x\r\nabc\r\n"),
    "a length below nothing": repeat(b"$-5\r\nabc\r\n"),
    "a length of many digits": repeat(b"$" + b"9" * 5000 + b"\r\n"),
    "half an answer": repeat(b"$100\r\nabc"),
    "half an answer, then the end": answer_with(b"$100\r\nabc"),
    "an error that is no text": repeat(b"-\xff\xfe\x00\r\n"),
    "drips": without_end(b"$100\r\n", b"x", every_s=0.02),
    "drips a line": without_end(b"+", b"x", every_s=0.02),
    "a line without end": without_end(b"+", b"x" * 65_536),
    "a value without end": without_end(b"$2000000000\r\n", b"x" * 65_536),
}


@pytest.mark.parametrize("nonsense", NONSENSE)
@pytest.mark.usefixtures("short_pause")
def test_a_server_that_talks_nonsense_is_a_miss_and_one_warning(
    caplog: pytest.LogCaptureFixture, nonsense: str
) -> None:
    """It is tried again after each pause. The memory that it can make grow stays small."""
    with BadServer(NONSENSE[nonsense]) as server, memory_stays_small():
        cache = RedisStore(f"redis://127.0.0.1:{server.port}")

        def fails() -> bool:
            assert cache.get("a") is None
            cache.put("a", ENTRY)
            return bool(outages(caplog))

        eventually(fails)
        for _ in range(20):
            time.sleep(0.05)
            fails()
        (warning,) = outages(caplog)
        assert f"127.0.0.1:{server.port} cannot be used" in warning


def test_requests_do_not_wait_for_a_server_that_says_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread still waits for it when the last of many requests has gone on without an answer."""
    monkeypatch.setattr(redis_store, "ANSWER_TIMEOUT_S", 3600)
    with BadServer(say_nothing) as server:
        cache = RedisStore(f"redis://127.0.0.1:{server.port}")
        for _ in range(200):
            assert cache.get("a") is None
            cache.put("a", ENTRY)
        eventually(lambda: server.connections)
        assert outages(caplog) == []


def test_a_server_that_failed_is_left_alone(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_store, "PAUSE_S", 3600)
    with BadServer(hang_up) as server:
        cache = RedisStore(f"redis://127.0.0.1:{server.port}")
        eventually(lambda: cache.get("a") or outages(caplog))
        connections = server.connections
        for _ in range(50):
            assert cache.get("a") is None
            cache.put("a", ENTRY)
        assert server.connections == connections


def test_whatever_bytes_a_server_sends_nothing_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of the protocol in any order: redis-py's parser lets errors of many kinds through."""
    monkeypatch.setattr(redis_store, "PAUSE_S", 0)
    random = Random(5)
    pieces = [*b"+-:$*%~#,(_>|=!", b"\r\n", b"0", b"-1", b"9" * 30, b"1", b"\xff", b"OK", b"a" * 20]
    pieces += [b"-ERR ", b"-MOVED ", b"-ASK 1 ", b"-LOADING ", b"-WRONGTYPE", b"nan", b"$3\r\nabc\r\n", b"*2\r\n"]

    def behave(connection: Connection) -> None:
        connection.client.recv(65_536)
        chosen = random.choices(pieces, k=random.randint(1, 8))
        connection.send(b"".join(bytes([piece]) if isinstance(piece, int) else piece for piece in chosen) + b"\r\n")

    with BadServer(behave) as server:
        store = RedisStore(f"redis://127.0.0.1:{server.port}")
        client = redis_store._client(store._url)
        for _ in range(300):
            store._exchange(client, ("GETRANGE", "a", 0, 5))
            store._exchange(client, ("SET", "a", "b"))
        client.close()


@pytest.mark.usefixtures("short_pause")
def test_a_server_that_repeats_what_it_was_told_gives_no_password_away(caplog: pytest.LogCaptureFixture) -> None:
    """Old servers do, when they do not know a command."""
    caplog.set_level(logging.DEBUG)
    for answer in (b"-ERR unknown command AUTH with args 'hunter2'\r\n", b"-hunter2 is wrong\r\n", b"hunter2\r\n"):
        with BadServer(repeat(answer)) as server:
            cache = RedisStore(f"redis://:hunter2@127.0.0.1:{server.port}")
            cache.get("a")
            eventually(lambda: outages(caplog))
        caplog_text = caplog.text
        assert "hunter2" not in caplog_text
        assert "cannot be used" in caplog_text
        caplog.clear()


def test_an_answer_to_another_question_is_noticed() -> None:
    """A server that is one answer behind would otherwise give each picture its predecessor's caption."""
    wrong = entry(key="b").encode()
    with BadServer(repeat(b"$%d\r\n%s\r\n" % (len(wrong), wrong))) as server:
        cache = RedisStore(f"redis://127.0.0.1:{server.port}")
        gets(cache, "b")
        assert cache.get("a") is None


@pytest.mark.usefixtures("short_pause")
def test_a_server_that_hangs_is_left_alone_until_it_answers(
    server: CacheServer, caplog: pytest.LogCaptureFixture
) -> None:
    cache = RedisStore(server.url)
    cache.put("a", ENTRY)
    gets(cache, "a")
    server.process.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(32) as callers:  # all at once, as in a burst
        answers = list(callers.map(lambda _: cache.get("a"), range(320)))
    assert answers == [None] * 320
    eventually(lambda: cache.get("a") or outages(caplog))
    server.process.send_signal(signal.SIGCONT)
    assert gets(cache, "a").candidates == ENTRY.candidates
    first, last = outages(caplog)
    assert "does not answer within" in first
    assert last.endswith("again.")
