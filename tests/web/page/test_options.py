"""Options: what they do, what the form says of wrong ones, and captioning again with others."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.conftest import EMOJI_MODEL, Service
from tests.web.page.actions import TRUTHS, Open, caption, cards, click_sample


def test_options_hold_for_the_pictures_that_follow(open_service: Service, open_page: Open) -> None:
    page = open_page(open_service)
    page.get_by_text("Options", exact=True).click()
    page.get_by_label("Begin the caption with").fill("a picture of")
    page.get_by_label("Most tokens").fill("4")
    page.get_by_label("Beams").fill("2")
    click_sample(page, "one-1.jpg")
    options: dict[str, Any] = {"prompt": "a picture of", "maxNewTokens": 4, "numBeams": 2}
    answer = open_service.upload((EMOJI_MODEL / "samples" / "one-1.jpg").read_bytes(), params=options)
    expect(caption(cards(page).first)).to_have_value(answer.json()["output"])


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("Beams", "9", "Beams: 1 to 5"),
        ("Beams", "1.5", "Beams: 1 to 5, without a fraction"),
        ("Most tokens", "0", "Most tokens: 1 to 100"),
        ("Penalty for repeating", "-1", "Penalty for repeating: 0.1 to 10"),
    ],
)
def test_a_wrong_option_is_told_in_the_forms_words(
    open_service: Service, open_page: Open, field: str, value: str, said: str
) -> None:
    page = open_page(open_service)
    page.get_by_text("Options", exact=True).click()
    page.get_by_label(field).fill(value)
    page.get_by_text("Options", exact=True).click()
    click_sample(page, "one-2.jpg")
    expect(page.get_by_label(field)).to_be_focused()
    expect(page.get_by_label(field)).to_have_accessible_description(said)
    assert cards(page).count() == 0
    page.get_by_label(field).fill("2")
    expect(page.get_by_text(said)).to_be_hidden()
    click_sample(page, "one-2.jpg")
    expect(caption(cards(page).first)).to_be_visible()


def test_the_forms_limits_are_the_services(open_service: Service, open_page: Open) -> None:
    properties = open_service.get("/openapi.json").json()["components"]["schemas"]["PictureFields"]["properties"]
    page = open_page(open_service)
    fields = page.locator("#options input[type=number]").all()
    assert len(fields) == 4
    for field in fields:
        limits = properties[field.get_attribute("name")]["anyOf"][0]
        least, most = (float(field.get_attribute(end) or "") for end in ("min", "max"))
        assert most == limits["maximum"]
        assert least == limits["minimum"] if "minimum" in limits else least > limits["exclusiveMinimum"]


def test_other_options_hold_for_one_card_or_all_again(open_service: Service, open_page: Open) -> None:
    page = open_page(open_service)
    for name in ("one-1.jpg", "one-2.jpg"):
        click_sample(page, name)
        expect(caption(cards(page).first)).to_have_value(TRUTHS[name])
    page.get_by_text("Options", exact=True).click()
    page.get_by_label("Most tokens").fill("2")
    cards(page).last.get_by_role("button", name="Caption again").click()
    expect(caption(cards(page).last)).to_have_value(" ".join(TRUTHS["one-1.jpg"].split()[:2]))
    expect(caption(cards(page).first)).to_have_value(TRUTHS["one-2.jpg"])
    page.get_by_role("button", name="Caption all again").click()
    expect(caption(cards(page).first)).to_have_value(" ".join(TRUTHS["one-2.jpg"].split()[:2]))
    page.get_by_role("button", name="Undo").click()
    expect(caption(cards(page).first)).to_have_value(TRUTHS["one-2.jpg"])
    page.reload()
    expect(caption(cards(page).first)).to_have_value(TRUTHS["one-2.jpg"])
