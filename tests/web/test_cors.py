"""Pages of other origins ask from the browser only where a setting names them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import requests

from captioning.settings import SettingsError, load_settings
from tests.conftest import Service

MINE = "https://mine.example:8443"


def preflight(service: Service, origin: str) -> requests.Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-request-timeout-ms",
    }
    return requests.options(f"{service.url}/local-caption", headers=headers, timeout=60)


def test_no_origin_is_allowed_by_default(service: Service) -> None:
    answer = preflight(service, MINE)
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_a_named_origin_may_ask_with_a_key_and_read_the_headers(start_service: Callable[..., Service]) -> None:
    service = start_service(CORS_ORIGINS=f"https://other.example, {MINE}", API_KEYS="secret").wait_until_ready()
    allowed = preflight(service, MINE)
    assert allowed.status_code == 200
    assert allowed.headers["Access-Control-Allow-Origin"] == MINE
    assert "POST" in allowed.headers["Access-Control-Allow-Methods"]
    assert {"authorization", "content-type", "x-request-timeout-ms"} <= {
        name.strip().lower() for name in allowed.headers["Access-Control-Allow-Headers"].split(",")
    }
    refused = service.post(json={}, headers={"Origin": MINE})
    assert refused.json()["code"] == "unauthorized"
    assert refused.headers["Access-Control-Allow-Origin"] == MINE
    assert "X-Request-Id" in refused.headers["Access-Control-Expose-Headers"]
    assert "Origin" in refused.headers["Vary"]
    for stranger in ("https://stranger.example", MINE + "0", "https://mine.example", "null"):
        assert "Access-Control-Allow-Origin" not in preflight(service, stranger).headers


@pytest.mark.parametrize("origins", ["example.com", "https://example.com/path", "https://*.example.com"])
def test_what_is_no_origin_ends_the_start(monkeypatch: pytest.MonkeyPatch, origins: str) -> None:
    monkeypatch.setenv("CORS_ORIGINS", origins)
    with pytest.raises(SettingsError, match="CORS_ORIGINS"):
        load_settings()
