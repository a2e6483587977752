"""Each state in a picture.

`SCREENSHOTS=docs .venv/bin/pytest tests/web/page/test_looks.py` makes those in docs/ anew.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect

from tests.conftest import ROOT, SAMPLES, Service
from tests.web.page.actions import Open, caption, cards, click_sample, file, large_file, slow_down, standing_still


def test_every_state_looks_as_it_should(
    open_service: Service, open_page: Open, image_server: str, tmp_path: Path
) -> None:
    """Someone must look at these; here it is only shown that each state is reached, in a picture for the docs."""
    folder = ROOT / os.environ["SCREENSHOTS"] if "SCREENSHOTS" in os.environ else tmp_path

    def show(name: str, page: Page) -> None:
        page.evaluate("() => document.activeElement.blur()")
        page.mouse.move(0, 0)
        picture = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
        picture.quantize(256, dither=Image.Dither.NONE).save(folder / f"page-{name}.png", optimize=True)
        assert (folder / f"page-{name}.png").stat().st_size < 200_000

    def done(page: Page, *names: str) -> Page:
        for name in names:
            click_sample(page, f"{name}.jpg")
        expect(page.locator(".caption:visible")).to_have_count(len(names))
        page.evaluate("() => scrollTo(0, 0)")
        return page

    tall = {"width": 1280, "height": 900}
    show("empty", open_page(open_service, viewport=tall))
    show("done", done(open_page(open_service, viewport=tall), "three-alike-2", "between-2", "above-1"))
    show("dark", done(open_page(open_service, viewport=tall, color_scheme="dark"), "one-1", "beside-2", "two-alike-1"))

    working = done(open_page(open_service, viewport=tall), "beside-1")
    slow_down(working)
    with standing_still(open_service):
        large = large_file(tmp_path, 15_000_000)
        working.get_by_label("Choose pictures").set_input_files([SAMPLES[0], large, *SAMPLES[3:7]])
        expect(working.locator(".state", has_text="Queued")).to_have_count(2)
        expect(working.locator(".state:visible", has_text=re.compile("Uploading|Captioning…"))).to_have_count(4)
        if "SCREENSHOTS" in os.environ:  # the browser does not always upload as slowly as it was told to
            halfway = working.locator(".state", has_text=re.compile(r"Uploading, [12]\d%"))
            expect(halfway).to_have_count(1, timeout=30_000)
        show("working", working)
        working.get_by_role("button", name="Remove large.jpg").click()
    expect(working.locator(".caption:visible")).to_have_count(6, timeout=60_000)

    failed = open_page(open_service, viewport=tall, elsewhere=image_server)
    failed.get_by_label("Choose pictures").set_input_files(file("notes.txt", b"not a picture"))
    expect(failed.locator(".sentence:visible")).to_have_count(1)
    failed.get_by_label("Address of a picture").fill(f"{image_server}/status/500")
    failed.keyboard.press("Enter")
    expect(failed.locator(".sentence:visible")).to_have_count(2)
    show("error", done(failed, "one-2"))

    phone = open_page(open_service, viewport={"width": 360, "height": 740}, device_scale_factor=2, has_touch=True)
    click_sample(phone, "three-alike-1.jpg")
    expect(caption(cards(phone).first)).to_be_in_viewport()
    show("phone", phone)
