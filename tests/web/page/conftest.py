"""Debian's Chromium, and real services for it to open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect, sync_playwright

from tests.conftest import Service, required_program
from tests.web.page.actions import KEY, Open

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    path = required_program("chromium")
    expect.set_options(timeout=30_000)  # a busy machine is no bug
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def open_service(start_service: Callable[..., Service], browser: Browser) -> Service:
    """A service without a key, its model named as a path in the project, that may fetch from loopback."""
    fetching = {"FETCH_ALLOW_PRIVATE_ADDRESSES": "true", "FETCH_ALLOWED_PORTS": "*"}
    return start_service(MODEL_ID="models/blip-emoji", **fetching).wait_until_ready()


@pytest.fixture(scope="package")
def narrow_service(start_service: Callable[..., Service], browser: Browser) -> Service:
    """A service that wants a key and has room for one request at a time."""
    fetching = {"FETCH_ALLOW_PRIVATE_ADDRESSES": "true", "FETCH_ALLOWED_PORTS": "*"}
    return start_service(API_KEYS=KEY, MAX_CONCURRENT_REQUESTS="1", **fetching).wait_until_ready()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Open pages; none may load anything from another host, break its policy or leave an error in the console."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []
    requested: list[str] = []
    expected: list[str] = ["blob:", "data:"]

    def open_(service: Service, *, elsewhere: str | None = None, ready: bool = True, **options: Any) -> Page:
        defaults: dict[str, Any] = {"reduced_motion": "reduce", "viewport": {"width": 1280, "height": 800}}
        context = browser.new_context(**{**defaults, **options})
        contexts.append(context)
        expected.extend(prefix for prefix in (service.url, elsewhere) if prefix)
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=service.url)
        page = context.new_page()

        def note(request: Request) -> None:
            requested.append(request.url)

        page.on("request", note)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(service.url)
        if ready:
            expect(page.get_by_role("status").first).to_contain_text("ready")
        return page

    yield open_
    for context in contexts:
        context.close()
    # A request that fails leaves such a line in the console, whatever the page makes of it.
    assert [text for text in complaints if not text.startswith("Failed to load resource: ")] == []
    assert [url for url in requested if not url.startswith(tuple(expected))] == []
