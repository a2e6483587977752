"""Settings: strict, named when wrong, and all of them documented."""

from __future__ import annotations

import re

import pytest

from captioning.model.registry import engine_kind
from captioning.setting_types import ApiKey
from captioning.settings import BLIP_BASE_REVISION, Settings, SettingsError, load_settings
from tests.conftest import ROOT


def settings_with(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Settings:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NUM_BEAMS", "6"),
        ("NUM_BEAMS", "two"),
        ("REQUEST_TIMEOUT_S", "0"),
        ("REQUEST_TIMEOUT_S", "nan"),
        ("MAX_CONCURRENT_REQUESTS", "-1"),
        ("FETCH_ALLOWED_HOSTS", " , "),
        ("FETCH_ALLOWED_HOSTS", "https://example.com"),
        ("FETCH_ALLOWED_HOSTS", "example.com:443"),
        ("FETCH_ALLOWED_HOSTS", "a.example,*"),
        ("FETCH_ALLOWED_HOSTS", "*example.com"),
        ("FETCH_ALLOWED_HOSTS", "a.*.example"),
        ("FETCH_ALLOWED_HOSTS", "a b.example"),
        ("FETCH_USER_AGENT", "caf\u00e9/1.0"),
        ("FETCH_USER_AGENT", "a\r\nX-Other: b"),
        ("FETCH_USER_AGENT", " "),
        ("FETCH_USER_AGENT", "a" * 257),
        ("FETCH_ALLOWED_PORTS", "80,https"),
        ("FETCH_ALLOWED_PORTS", "70000"),
        ("FETCH_ALLOW_PRIVATE_ADDRESSES", "maybe"),
        ("LOG_LEVEL", "LOUD"),
        ("PORT", "http"),
        ("HOST", "0.0.0.0:8000"),
        ("HOST", "http://localhost"),
        ("HOST", "local host"),
        ("HOST", "[::1"),
        ("HOST", "unix:/run/socket"),
        ("MODEL_ID", "  "),
        ("MODEL_REVISION", " "),
        ("API_KEYS", " , "),
        ("API_KEYS", ","),
        ("API_KEYS", " "),
        ("API_KEYS", "clé"),
        ("API_KEYS", "a b"),
        ("API_KEYS", "gateway:"),
        ("API_KEYS", ":key"),
        ("API_KEYS", "gateway:key@"),
        ("API_KEYS", "gateway:key@0"),
        ("API_KEYS", "gateway:key@many"),
        ("API_KEYS", "gateway:a,gateway:b"),
        ("API_KEYS", "gateway:a,batch:a"),
        ("CORS_ORIGINS", ","),
        ("FETCH_ALLOWED_PORTS", " , "),
        ("CACHE_URL", " "),
        ("CACHE_MAX_ENTRIES", "-1"),
        ("CACHE_TTL_S", "0"),
        ("CACHE_TTL_S", "inf"),
        ("CACHE_URL", "localhost:6379"),
        ("CACHE_URL", "http://localhost:6379"),
        ("CACHE_URL", "redis://"),
        ("CACHE_URL", "redis://:pass@"),
        ("CACHE_URL", "redis://[::1"),
        ("CACHE_URL", "redis://localhost:0"),
        ("CACHE_URL", "redis://localhost:port"),
        ("CACHE_URL", "redis://localhost:70000"),
        ("CACHE_URL", "redis://localhost/captions"),
        ("CACHE_URL", "redis://localhost?socket_timeout=60"),
        ("CACHE_URL", "redis://local host"),
        ("CACHE_URL", "unix://socket"),
        ("CACHE_URL", "unix:///socket?db=x"),
    ],
)
def test_a_bad_value_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=rf"\b{name}\b"):
        settings_with(monkeypatch, **{name: value})


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://red-abc123:6379",
        "redis://localhost:6379/0",
        "rediss://default:p%40ss@cache.example.com:6380/",
        "redis://[::1]:6379",
        "unix:///run/redis/redis.sock",
        "unix:///run/redis/redis.sock?db=2",
    ],
)
def test_a_caches_url_is_taken(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    assert settings_with(monkeypatch, CACHE_URL=url).cache_url == url


def test_a_caches_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "s3cret" not in repr(settings_with(monkeypatch, CACHE_URL="redis://:s3cret@localhost"))
    with pytest.raises(SettingsError) as caught:
        settings_with(monkeypatch, CACHE_URL="redis://:s3cret@localhost:port")
    assert "CACHE_URL" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_all_bad_values_are_named_at_once_and_no_value_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_with(monkeypatch, PORT="my-secret", NUM_BEAMS="0")
    assert "PORT" in str(caught.value)
    assert "NUM_BEAMS" in str(caught.value)
    assert "my-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "meaning"), [("false", False), ("0", False), ("no", False), ("true", True), ("1", True)]
)
def test_booleans_mean_what_they_say(monkeypatch: pytest.MonkeyPatch, text: str, meaning: bool) -> None:
    assert settings_with(monkeypatch, FETCH_ALLOW_PRIVATE_ADDRESSES=text).fetch_allow_private_addresses is meaning


def test_lists_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_with(monkeypatch, FETCH_ALLOWED_PORTS="80, 8080", API_KEYS=" a ,b,")
    assert settings.fetch_allowed_ports == frozenset({80, 8080})
    assert settings.api_keys == (ApiKey("a"), ApiKey("b"))
    assert settings_with(monkeypatch, FETCH_ALLOWED_PORTS="*").fetch_allowed_ports is None
    hosts = settings_with(
        monkeypatch, FETCH_ALLOWED_HOSTS="A.example., *.B\u00fccher.example,[::1]"
    ).fetch_allowed_hosts
    assert hosts == frozenset({"a.example", "*.xn--bcher-kva.example", "::1"})
    assert settings_with(monkeypatch, FETCH_ALLOWED_HOSTS="*").fetch_allowed_hosts == frozenset()


def test_keys_may_have_a_name_and_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = "q0Zx/+w3kA=="  # as `openssl rand -base64` and Render make them
    settings = settings_with(monkeypatch, API_KEYS=f"{plain}, gateway:s3cret@8,nightly.batch:other-s3cret")
    assert settings.api_keys == (
        ApiKey(plain),
        ApiKey("s3cret", name="gateway", limit=8),
        ApiKey("other-s3cret", name="nightly.batch"),
    )
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize(
    ("host", "bind"),
    [
        ("127.0.0.1", "127.0.0.1:8000"),
        ("::", "[::]:8000"),
        ("[::1]", "[::1]:8000"),
        ("localhost", "localhost:8000"),
        ("captioning.internal", "captioning.internal:8000"),
    ],
)
def test_the_host_is_an_address_or_a_name(monkeypatch: pytest.MonkeyPatch, host: str, bind: str) -> None:
    assert settings_with(monkeypatch, HOST=host).bind == bind


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_with(monkeypatch, PORT="", API_KEYS="") == settings_with(monkeypatch)


def test_only_blip_base_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_with(monkeypatch).revision == BLIP_BASE_REVISION
    assert settings_with(monkeypatch, MODEL_ID="models/blip-emoji").revision is None
    assert settings_with(monkeypatch, MODEL_REVISION="main").revision == "main"


def test_workers_share_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_with(monkeypatch, NUM_THREADS="3", WEB_CONCURRENCY="2").model_threads == 3
    assert settings_with(monkeypatch, WEB_CONCURRENCY="64").model_threads == 1


def test_every_setting_is_documented_with_its_default() -> None:
    documented = (ROOT / "docs" / "settings.md").read_text()
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.*?) \| (.*?) \|$", documented, re.MULTILINE)
    assert rows == [
        (name.upper(), shown(field.default), field.description) for name, field in Settings.model_fields.items()
    ]


def shown(default: object) -> str:
    if default in (None, "", frozenset(), ()):
        return "none"
    if isinstance(default, frozenset):
        return "`" + ",".join(map(str, sorted(default))) + "`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def test_an_unknown_engine_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="ENGINE: must be torch or int8"):
        engine_kind(settings_with(monkeypatch, ENGINE="tensorflow"))
