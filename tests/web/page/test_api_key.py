"""The key that a service asks for."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.conftest import Service
from tests.web.page.actions import KEY, TRUTHS, Open, caption, cards, click_sample


def test_a_key_is_asked_for_and_kept_in_the_tab_only(narrow_service: Service, open_page: Open) -> None:
    page = open_page(narrow_service)
    expect(page.get_by_label("API key")).to_be_hidden()
    click_sample(page, "one-1.jpg")
    expect(cards(page).first.locator(".code")).to_have_text("unauthorized")
    field = page.get_by_label("API key")
    for key, said in (("wr ong", "no spaces"), ("wrong", "does not know this key"), (" ", "Enter the key first")):
        field.fill(key)
        page.keyboard.press("Enter")
        expect(field).to_have_accessible_description(re.compile(said))
        expect(field).to_be_focused()
    field.fill(KEY)
    page.keyboard.press("Enter")
    expect(caption(cards(page).first)).to_have_value(TRUTHS["one-1.jpg"])
    expect(page.get_by_label("API key")).to_be_hidden()
    assert page.evaluate("() => [localStorage.length, document.cookie, { ...sessionStorage }]") == [
        0, "", {"api-key": KEY}
    ]  # fmt: skip
