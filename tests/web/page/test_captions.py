"""What is done with captions: edit, copy, download, keep, remove, forget."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.conftest import SAMPLES, Service
from tests.web.page.actions import TRUTHS, Open, caption, cards, click_sample, clipboard, drop, file

NAMES = ["one-1.jpg", "between-2.jpg"]


@pytest.fixture
def page(open_service: Service, open_page: Open) -> Page:
    """The page with two captions; what was added last stands first."""
    page = open_page(open_service)
    for name in NAMES:
        click_sample(page, name)
        expect(caption(cards(page).first)).to_have_value(TRUTHS[name])
    return page


def downloaded(page: Page, button: str) -> tuple[str, str]:
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes().decode()


def test_a_caption_is_edited_before_it_is_copied(page: Page) -> None:
    card = cards(page).first
    page.get_by_label("Caption of between-2.jpg").fill('mine, "quoted" & <b>')
    card.get_by_role("button", name="Copy caption").click()
    expect(card.get_by_role("button", name="Copied")).to_be_visible()
    assert clipboard(page) == 'mine, "quoted" & <b>'
    card.get_by_role("button", name="Copy <img> tag").click()
    expect(card.get_by_role("button", name="Copied")).to_have_count(2)
    assert clipboard(page) == '<img src="between-2.jpg" alt="mine, &quot;quoted&quot; &amp; &lt;b&gt;">'
    expect(card.get_by_role("img")).to_have_accessible_name('mine, "quoted" & <b>')


def test_all_are_copied_and_downloaded_as_they_stand(page: Page) -> None:
    edited = 'mine, "quoted"\nin two lines'
    page.get_by_label("Caption of between-2.jpg").fill(edited)
    page.get_by_label("Choose pictures").set_input_files(file("ümläut, 1.txt", b"not a picture"))
    expect(cards(page).first.locator(".code")).to_have_text("unsupported_image")
    error = cards(page).first.locator(".sentence").text_content()

    page.get_by_role("button", name="Copy all").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert clipboard(page) == f'between-2.jpg\tmine, "quoted" in two lines\none-1.jpg\t{TRUTHS["one-1.jpg"]}'

    name, text = downloaded(page, "Download CSV")
    assert name == "captions.csv"
    assert list(csv.reader(io.StringIO(text, newline=""), strict=True)) == [
        ["source", "output", "error", "code"],
        ["ümläut, 1.txt", "", error, "unsupported_image"],
        ["between-2.jpg", edited, "", ""],
        ["one-1.jpg", TRUTHS["one-1.jpg"], "", ""],
    ]
    name, text = downloaded(page, "Download JSON")
    assert name == "captions.json"
    assert json.loads(text) == [
        {"source": "ümläut, 1.txt", "error": error, "code": "unsupported_image"},
        {"source": "between-2.jpg", "output": edited},
        {"source": "one-1.jpg", "output": TRUTHS["one-1.jpg"]},
    ]


def test_captions_survive_a_reload_until_they_are_forgotten(page: Page) -> None:
    drop(page, SAMPLES[5])
    expect(caption(cards(page).first)).to_have_value(TRUTHS[SAMPLES[5].name])
    page.get_by_label("Caption of one-1.jpg").fill("edited")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
    page.reload()
    expect(cards(page).get_by_role("heading")).to_have_text([SAMPLES[5].name, "between-2.jpg", "one-1.jpg"])
    expect(caption(cards(page).last)).to_have_value("edited")
    expect(caption(cards(page).first)).to_have_value(TRUTHS[SAMPLES[5].name])
    expect(cards(page).first.get_by_text(re.compile(r"^total \d+ ms$"))).to_be_visible()
    assert cards(page).first.locator("img").evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 0
    cards(page).nth(1).get_by_role("button", name="Remove").click()
    page.reload()
    expect(cards(page).get_by_role("heading")).to_have_text([SAMPLES[5].name, "one-1.jpg"])
    assert asked == []

    cards(page).first.get_by_role("button", name="Caption again").click()  # its file was kept, too
    expect(caption(cards(page).first)).to_have_value(TRUTHS[SAMPLES[5].name])
    assert len(asked) == 1

    page.get_by_role("button", name="Forget everything").click()
    expect(page.get_by_label("Choose pictures")).to_be_focused()
    page.reload()
    expect(page.get_by_role("status").first).to_contain_text("ready")
    expect(page.get_by_role("region", name="Captions")).to_be_hidden()
    kept = """async () => {
        const [{ name }] = await indexedDB.databases();
        const database = await new Promise((done) => (indexedDB.open(name).onsuccess = (e) => done(e.target.result)));
        const counts = [...database.objectStoreNames].map((store) => new Promise((done) => {
            database.transaction(store).objectStore(store).count().onsuccess = (event) => done(event.target.result);
        }));
        return [localStorage.length, sessionStorage.length, ...(await Promise.all(counts))];
    }"""
    assert page.evaluate(kept) == [0, 0, 0, 0]


def test_what_had_no_caption_before_a_reload_is_asked_about_again(open_service: Service, open_page: Open) -> None:
    page = open_page(open_service)
    page.route("**/local-caption", lambda route: route.abort())
    drop(page, SAMPLES[0], SAMPLES[1])
    expect(page.locator(".sentence:visible")).to_have_count(2)
    page.unroute("**/local-caption")
    page.reload()
    expect(caption(cards(page).nth(0))).to_have_value(TRUTHS[SAMPLES[0].name])
    expect(caption(cards(page).nth(1))).to_have_value(TRUTHS[SAMPLES[1].name])


def test_a_browser_that_keeps_nothing_says_so(open_service: Service, open_page: Open) -> None:
    page = open_page(open_service)
    page.add_init_script("IDBFactory.prototype.open = () => { throw new DOMException('no', 'SecurityError'); };")
    page.reload()
    click_sample(page, "one-1.jpg")
    expect(caption(cards(page).first)).to_have_value(TRUTHS["one-1.jpg"])
    expect(page.get_by_text("This browser keeps nothing more")).to_be_visible()


@pytest.mark.parametrize("button", ["Remove all", "Remove between-2.jpg"])
def test_what_was_removed_comes_back_where_it_was(page: Page, button: str) -> None:
    page.get_by_label("Caption of between-2.jpg").fill("edited")
    page.get_by_role("button", name=button).click()
    expect(page.get_by_role("button", name="Undo")).to_be_focused()
    click_sample(page, "above-1.jpg")
    expect(caption(cards(page).first)).to_have_value(TRUTHS["above-1.jpg"])
    page.get_by_role("button", name="Undo").click()
    for _ in ("at once", "after a reload"):
        expect(cards(page).get_by_role("heading")).to_have_text(["above-1.jpg", "between-2.jpg", "one-1.jpg"])
        expect(caption(cards(page).nth(1))).to_have_value("edited")
        page.reload()


def test_after_an_outage_all_that_failed_is_tried_again(page: Page) -> None:
    page.route("**/local-caption", lambda route: route.abort())
    drop(page, SAMPLES[0], SAMPLES[1])
    expect(page.get_by_text("2 pictures have no caption yet.")).to_be_visible()
    page.unroute("**/local-caption")
    page.get_by_role("button", name="Try all again").click()
    for card, sample in zip(cards(page).all()[:2], SAMPLES[:2], strict=True):
        expect(caption(card)).to_have_value(TRUTHS[sample.name])
    expect(page.get_by_role("button", name="Try all again")).to_be_hidden()
    expect(page.get_by_text("4 of 4")).to_be_visible()


def test_the_total_is_what_the_visitor_waited(open_service: Service, open_page: Open) -> None:
    page = open_page(open_service)

    def late(route: Route) -> None:
        page.wait_for_timeout(1_500)
        route.continue_()

    page.route("**/local-caption", late)
    click_sample(page, "one-1.jpg")
    expect(caption(cards(page).first)).to_be_visible()
    total = cards(page).first.locator("[data-stage=total]").last.text_content() or ""
    assert int(re.findall(r"\d+", total)[0]) >= 1_500
