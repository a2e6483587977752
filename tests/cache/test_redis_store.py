"""Captions shared through a real Redis or Valkey server, and what becomes of them when that server fails."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
import redis
import requests
import trustme

from captioning.cache import redis_store
from captioning.cache.captions import CacheEntry
from captioning.cache.redis_store import RedisStore
from captioning.settings import Settings
from tests.bad_servers import BadServer, Behaviour, Connection, say_nothing
from tests.candidates import made_up
from tests.conftest import SAMPLES, Service, free_port, required_program

ENTRY = CacheEntry(made_up("a caption, ünïcödé too"), 60)
CAPTIONS = json.loads((SAMPLES[0].parent / "captions.json").read_text())


class CacheServer:
    """Run redis-server or valkey-server."""

    def __init__(self, folder: Path, **options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._folder = folder
        self._options = {"port": str(self.port), "save": "", "appendonly": "no", "dir": str(folder), **options}
        self.start()

    def start(self) -> None:
        program = required_program("valkey-server", "redis-server")
        arguments = [part for name, value in self._options.items() for part in (f"--{name}", value)]
        with (self._folder / "log").open("wb") as log:
            self.process = subprocess.Popen([program, *arguments], stdout=log, stderr=subprocess.STDOUT)
        eventually(self._answers)

    def ask(self, *command: str | bytes | int) -> Any:
        with redis.Redis(port=self.port, password=self._options.get("requirepass")) as client:
            return client.execute_command(*command)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self._folder / "log").read_text()
        try:
            return bool(self.ask("PING"))
        except redis.ConnectionError:
            return False


def eventually(condition: Callable[[], Any], seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return answer


@contextmanager
def memory_stays_small() -> Iterator[None]:
    """Check that the peak of this process's memory does not grow by more than 20 MB."""

    def peak_kb() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0])

    Path("/proc/self/clear_refs").write_text("5")  # begin a new peak
    before = peak_kb()
    yield
    assert peak_kb() - before < 20_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[CacheServer]:
    server = CacheServer(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_store, "PAUSE_S", 0.2)


def outages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def gets(cache: RedisStore, key: str) -> CacheEntry:
    """Return the cache's entry. At first the cache may still be connecting."""
    entry = eventually(lambda: cache.get(key))
    assert isinstance(entry, CacheEntry)
    return entry


def test_what_one_instance_puts_another_gets_for_as_long_as_it_is_kept(server: CacheServer) -> None:
    RedisStore(server.url).put("a", ENTRY)
    got = gets(RedisStore(server.url), "a")
    assert got.candidates == ENTRY.candidates
    assert 0 < got.ttl_s <= 60
    assert 0 < server.ask("PTTL", "a") <= 60_000
    assert server.ask("CLIENT", "LIST").count(b"\n") == 3  # one connection each, and the one that asks


@pytest.mark.parametrize("scheme", ["unix", "database", "password", "user"])
def test_every_form_of_url_works(tmp_path: Path, scheme: str) -> None:
    password = {"requirepass": "p@ss:/w"} if scheme in ("password", "user") else {}
    server = CacheServer(tmp_path, unixsocket=str(tmp_path / "socket"), **password)
    urls = {
        "unix": f"unix://{tmp_path}/socket?db=3",
        "database": f"{server.url}/3",
        "password": f"redis://:p%40ss%3A%2Fw@localhost:{server.port}/3",
        "user": f"redis://default:p%40ss%3A%2Fw@localhost:{server.port}/3",
    }
    cache = RedisStore(str(Settings(cache_url=urls[scheme]).cache_url))
    try:
        cache.put("a", ENTRY)
        assert gets(cache, "a").candidates == ENTRY.candidates
        assert list(server.ask("INFO", "KEYSPACE")) == ["db3"]
    finally:
        server.kill()


def test_tls_is_spoken_and_its_certificate_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    authority, port = trustme.CA(), free_port()
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(tmp_path / "key")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "certificate")
    authority.cert_pem.write_to_path(tmp_path / "authority")
    tls = {"tls-cert-file": "certificate", "tls-key-file": "key", "tls-ca-cert-file": "authority"}
    files = {name: str(tmp_path / file) for name, file in tls.items()}
    server = CacheServer(tmp_path, **{"tls-port": str(port), "tls-auth-clients": "no", **files})
    try:
        stranger = RedisStore(f"rediss://localhost:{port}")
        assert stranger.get("a") is None
        assert "CERTIFICATE_VERIFY_FAILED" in eventually(lambda: outages(caplog))[0]
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority"))
        cache = RedisStore(f"rediss://localhost:{port}")
        cache.put("a", ENTRY)
        assert gets(cache, "a").candidates == ENTRY.candidates
    finally:
        server.kill()


FOREIGN = {"text": "foreign", "confidence": 0.9, "score": -0.1, "tokens": 1, "finish_reason": "end"}


def entry(**changes: object) -> str:
    return json.dumps({"key": "a", "candidates": [FOREIGN], "expires_at": time.time() + 86_400, **changes})


def captioned(**changes: object) -> str:
    return entry(candidates=[{**FOREIGN, **changes}])


@pytest.mark.parametrize(
    "command",
    [
        ("RPUSH", "a", "a list"),
        ("SET", "a", ""),
        ("SET", "a", b"\xff\xfe\x00"),
        ("SET", "a", "a caption"),
        ("SET", "a", "[" * 8000),
        ("SET", "a", entry(key="another")),
        ("SET", "a", captioned(text=5)),
        ("SET", "a", captioned(text=None)),
        ("SET", "a", captioned(text="surrogate").replace("surrogate", "\\ud800")),
        ("SET", "a", entry(expires_at=time.time() - 1)),
        ("SET", "a", entry(expires_at=math.nan)),
        ("SET", "a", entry(expires_at=0).replace(": 0}", ": 1e999}")),
        ("SET", "a", entry(candidates=[])),
        ("SET", "a", entry(candidates=[FOREIGN] * 6)),
        ("SET", "a", captioned(confidence=1.5)),
        ("SET", "a", captioned(confidence=math.nan)),
        ("SET", "a", captioned(score=math.inf)),
        ("SET", "a", captioned(tokens=-1)),
        ("SET", "a", captioned(finish_reason="stop")),
        ("SET", "a", captioned(more="a")),
        ("SET", "a", captioned(text="")),
        ("SET", "a", captioned(text="x" * 3001)),
        ("SET", "a", captioned(text="a\u202ered gnorts")),
        ("SET", "a", captioned(text="a\u2066b")),
        ("SET", "a", captioned(text="a\x1b[31mb")),
        ("SET", "a", captioned(text="a\nb")),
        ("SET", "a", captioned(text="a\u2028b")),
        ("SET", "a", captioned(text="a\u200bb")),
        ("SET", "a", captioned(text="x" * 20_000)),
        ("SETRANGE", "a", 200_000_000, "huge"),
    ],
    ids=str,
)
def test_a_value_that_is_no_caption_is_a_miss_and_is_replaced(
    server: CacheServer, caplog: pytest.LogCaptureFixture, command: tuple[str | bytes | int, ...]
) -> None:
    cache = RedisStore(server.url)
    cache.put("there", ENTRY)
    gets(cache, "there")
    server.ask(*command)
    with memory_stays_small():
        assert [cache.get("a") for _ in range(5)] == [None] * 5
    cache.put("a", ENTRY)
    assert gets(cache, "a").candidates == ENTRY.candidates
    assert outages(caplog) == []


def test_what_no_model_writes_is_not_stored(server: CacheServer) -> None:
    cache = RedisStore(server.url)
    cache.put("long", CacheEntry(made_up("x" * 3001), 60))
    cache.put("control", CacheEntry(made_up("a\0b"), 60))
    cache.put("surrogate", CacheEntry(made_up("\ud800"), 60))
    cache.put("short", ENTRY)
    gets(cache, "short")
    assert server.ask("KEYS", "*") == [b"short"]


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
    assert last.endswith("this is over.")


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
    assert last.endswith("this is over.")


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CacheServer]:
    server = CacheServer(tmp_path_factory.mktemp("redis"), requirepass="s3cret")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def instances(start_service: Callable[..., Service], shared_server: CacheServer) -> list[Service]:
    """Two instances without a memory of their own; one was imported before its worker was forked."""
    url = f"redis://:s3cret@127.0.0.1:{shared_server.port}"
    settings = {"CACHE_URL": url, "CACHE_MAX_ENTRIES": "0", "NUM_THREADS": "1"}
    preloaded = {"GUNICORN_CMD_ARGS": "--preload"}
    started = [start_service(**settings), start_service(**settings, **preloaded)]
    return [service.wait_until_ready() for service in started]


def log_lines(service: Service) -> list[str]:
    return [line for line in service.log.read_text().splitlines() if "The caption cache" in line]


def test_instances_share_their_captions(instances: list[Service], shared_server: CacheServer) -> None:
    """What the second answers was written by the first, and then, to see where it comes from, by this test."""
    first, second = instances
    picture = SAMPLES[0].read_bytes()
    made = first.upload(picture)
    assert (made.headers["X-Cache"], made.json()) == ("miss", {"output": CAPTIONS[SAMPLES[0].name]})
    (key,) = eventually(lambda: shared_server.ask("KEYS", "*"))
    written = json.loads(shared_server.ask("GET", key))
    assert written["candidates"][0]["text"] == CAPTIONS[SAMPLES[0].name]

    def rewritten(text: str) -> str:
        return json.dumps({**written, "candidates": [{**written["candidates"][0], "text": text}]})

    def answers_what_is_there() -> bool:
        shared_server.ask("SET", key, rewritten("from the other instance"))
        answer = second.upload(picture)
        return (answer.headers["X-Cache"], answer.json()) == ("hit", {"output": "from the other instance"})

    eventually(answers_what_is_there)
    for nonsense in ("x" * 7000, "a\u202ered gnorts", "two\nlines", ""):
        shared_server.ask("SET", key, rewritten(nonsense))
        answer = second.upload(picture)
        assert (answer.headers["X-Cache"], answer.json()) == ("miss", made.json())
    shared_server.ask("FLUSHALL")


def test_captions_go_on_through_the_cache_servers_outages(instances: list[Service], shared_server: CacheServer) -> None:
    """It hangs, goes on, dies and comes back under load: every answer is right, and the log has one line for each."""
    service = instances[0]
    work = [(sample.read_bytes(), CAPTIONS[sample.name]) for sample in SAMPLES]
    truths = {picture: service.upload(picture).json() for picture, _ in work}

    def rounds(number: int) -> list[requests.Response]:
        with ThreadPoolExecutor(4) as callers:
            answers = list(callers.map(service.upload, [picture for picture, _ in work] * number))
        assert [answer.json() for answer in answers] == list(truths.values()) * number
        return answers

    def is_shared() -> bool:
        return any(answer.headers["X-Cache"] == "hit" for answer in rounds(1))

    eventually(is_shared)
    shared_server.process.send_signal(signal.SIGSTOP)
    rounds(1)
    eventually(lambda: (service.upload(work[0][0]), len(log_lines(service)) == 1)[1])
    left_alone = rounds(1)
    assert {answer.headers["X-Cache"] for answer in left_alone} == {"miss"}
    shared_server.process.send_signal(signal.SIGCONT)
    eventually(is_shared)

    with ThreadPoolExecutor(1) as caller:
        meanwhile = caller.submit(rounds, 4)
        shared_server.kill()
        meanwhile.result()
    eventually(lambda: (rounds(1), len(log_lines(service)) == 3)[1])
    shared_server.start()
    eventually(is_shared)

    hung, over, gone, over_again = log_lines(service)
    assert "cannot be used: " in hung
    assert "cannot be used: " in gone
    assert "this is over." in over
    assert "this is over." in over_again
    for instance in instances:
        log = instance.log.read_text()
        assert "s3cret" not in log
        assert "Traceback" not in log
