"""Captions that are shared through a real Redis or Valkey server."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
import trustme

from captioning.cache.captions import CacheEntry
from captioning.cache.redis_store import RedisStore
from captioning.settings import Settings
from tests.cache.conftest import ENTRY, FOREIGN, CacheServer, entry, eventually, gets, memory_stays_small, outages
from tests.candidates import made_up
from tests.conftest import free_port


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
