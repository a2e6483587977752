"""What a visitor does on the page and sees there, in terms of Playwright."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import FilePayload, Locator, Page

from tests.conftest import EMOJI_MODEL, SAMPLES, Service

TRUTHS: dict[str, str] = json.loads((EMOJI_MODEL / "samples" / "captions.json").read_text())
KEY = "s3cret"

Open = Callable[..., Page]


def cards(page: Page) -> Locator:
    return page.locator("#cards").get_by_role("listitem").filter(has=page.get_by_role("heading"))


def caption(card: Locator) -> Locator:
    return card.locator(".caption")


def clipboard(page: Page) -> str:
    return str(page.evaluate("() => navigator.clipboard.readText()"))


def click_sample(page: Page, name: str) -> None:
    page.get_by_role("button", name=TRUTHS[name], exact=True).click()


def drop(page: Page, *paths: Path) -> None:
    """Drop files from the disk, as the browser's own process does it."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 600, "y": 60, "data": data})
    session.detach()


def slow_down(page: Page) -> None:
    """Upload at 500 kB/s from now on."""
    conditions = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 500_000}
    page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", conditions)


def file(name: str, content: bytes) -> FilePayload:
    return {"name": name, "mimeType": "", "buffer": content}


def large_file(folder: Path, size: int) -> Path:
    """Make a picture that browsers show, and that ends in zeros."""
    path = folder / "large.jpg"
    path.write_bytes(SAMPLES[8].read_bytes().ljust(size, b"\0"))
    return path


class standing_still:
    """Stop the service's worker, and let it go on at the end."""

    def __init__(self, service: Service) -> None:
        self.pids = service.worker_pids()

    def __enter__(self) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGSTOP)

    def __exit__(self, *_: object) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGCONT)
