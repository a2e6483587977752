"""How pictures come to the page: samples, files, folders, the clipboard, addresses."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image
from playwright.sync_api import Route, expect

from tests.conftest import SAMPLES, Service
from tests.web.page.actions import TRUTHS, Open, caption, cards, click_sample, clipboard, drop, file, standing_still


def test_a_click_on_a_sample_captions_it(open_service: Service, open_page: Open) -> None:
    page = open_page(open_service)
    page.get_by_text("Options", exact=True).click()
    page.get_by_label("Most tokens").fill("19")  # as no other test does: the service has no such caption in its cache
    click_sample(page, "between-2.jpg")
    card = cards(page).first
    truth = TRUTHS["between-2.jpg"]  # asked of the service now, it might make the page's request wait for that
    expect(caption(card)).to_have_value(truth)
    expect(card.get_by_role("img")).to_have_accessible_name(truth)
    expect(card.locator("progress")).to_be_hidden()
    stages = card.get_by_role("list", name="How long each stage took")
    for stage in ("total", "decode", "queue", "generate"):
        expect(stages.get_by_text(re.compile(rf"^{stage} \d+(\.\d)? ms$"))).to_be_visible()
    expect(page.locator("#announcements")).to_have_text(f"between-2.jpg: {truth}")


def test_dropped_files_are_captioned(open_service: Service, open_page: Open) -> None:
    page = open_page(open_service, reduced_motion="no-preference")
    drop(page, SAMPLES[0], SAMPLES[6])
    expect(caption(cards(page).nth(0))).to_have_value(TRUTHS[SAMPLES[0].name])
    expect(caption(cards(page).nth(1))).to_have_value(TRUTHS[SAMPLES[6].name])
    expect(page.get_by_text("2 of 2")).to_be_visible()


def test_a_dropped_folder_gives_the_pictures_in_it_and_below(
    open_service: Service, open_page: Open, tmp_path: Path
) -> None:
    folder = tmp_path / "holiday"
    (folder / "day 2").mkdir(parents=True)
    (folder / "empty").mkdir()
    for name in ("10.jpg", "9.JPG", "day 2/a.jpg"):
        (folder / name).write_bytes(SAMPLES[0].read_bytes())
    (folder / "notes.txt").write_text("not a picture")
    page = open_page(open_service)
    drop(page, folder, SAMPLES[1])
    names = ["holiday/9.JPG", "holiday/10.jpg", "holiday/day 2/a.jpg", SAMPLES[1].name]
    expect(cards(page).get_by_role("heading")).to_have_text(names)
    expect(caption(cards(page).nth(2))).to_have_value(TRUTHS[SAMPLES[0].name])


def test_a_folder_of_more_than_the_browser_reads_at_once(
    open_service: Service, open_page: Open, tmp_path: Path
) -> None:
    for number in range(120):
        (tmp_path / f"{number}.png").write_bytes(b"")
    page = open_page(open_service)
    with standing_still(open_service):
        drop(page, tmp_path)
        expect(cards(page)).to_have_count(120)
        page.get_by_role("button", name="Remove all").click()


def test_a_folder_without_pictures_is_told(open_service: Service, open_page: Open, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a picture")
    page = open_page(open_service)
    drop(page, tmp_path)
    expect(page.get_by_text("no picture in what you dropped")).to_be_visible()
    assert cards(page).count() == 0


@pytest.mark.parametrize("focused", ["nothing", "the address", "a caption"])
def test_a_picture_is_pasted_wherever_the_focus_is(open_service: Service, open_page: Open, focused: str) -> None:
    """The clipboard takes PNG only; what it holds is pasted with the keys that people press."""
    picture = io.BytesIO()
    Image.open(SAMPLES[2]).save(picture, "PNG")
    page = open_page(open_service)
    if focused == "the address":
        page.get_by_label("Address of a picture").focus()
    if focused == "a caption":
        click_sample(page, "one-1.jpg")
        caption(cards(page).first).focus()
    page.evaluate(
        """async (base64) => {
            const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
            const picture = new Blob([bytes], { type: "image/png" });
            await navigator.clipboard.write([new ClipboardItem({ "image/png": picture })]);
        }""",
        base64.b64encode(picture.getvalue()).decode(),
    )
    page.keyboard.press("Control+V")
    expect(caption(cards(page).first)).to_have_value(TRUTHS[SAMPLES[2].name])


def test_words_are_pasted_where_one_writes(open_service: Service, open_page: Open) -> None:
    page = open_page(open_service)
    page.evaluate("(text) => navigator.clipboard.writeText(text)", "example.com/a.jpg")
    page.get_by_label("Address of a picture").focus()
    page.keyboard.press("Control+V")
    expect(page.get_by_label("Address of a picture")).to_have_value("example.com/a.jpg")
    assert cards(page).count() == 0


@pytest.mark.parametrize(
    ("typed", "asked"),
    [
        ("example.invalid/a.jpg", "https://example.invalid/a.jpg"),
        ("example.invalid:8443/a.jpg?x=1", "https://example.invalid:8443/a.jpg?x=1"),
        ("//example.invalid/a.jpg", "https://example.invalid/a.jpg"),
        ("bücher.invalid/a.jpg", "https://bücher.invalid/a.jpg"),
        ("HTTP://example.invalid/a.jpg", "HTTP://example.invalid/a.jpg"),
        ("ftp://example.invalid/a.jpg", "ftp://example.invalid/a.jpg"),
        ("data:image/png;base64,AA==", "data:image/png;base64,AA=="),
    ],
)
def test_an_address_gets_its_scheme(open_service: Service, open_page: Open, typed: str, asked: str) -> None:
    page = open_page(open_service, elsewhere="http")
    bodies: list[str] = []

    def refuse(route: Route) -> None:
        bodies.append((route.request.post_data_buffer or b"").decode())
        route.fulfill(status=422, json={"error": "No.", "code": "image_not_found"})

    page.route("**/local-caption", refuse)
    page.get_by_label("Address of a picture").fill(typed)
    page.keyboard.press("Enter")
    expect(cards(page).first.locator(".sentence")).to_have_text("No.")
    assert f'name="imageUrl"\r\n\r\n{asked}\r\n' in bodies[0]


def test_an_empty_address_is_told(open_service: Service, open_page: Open) -> None:
    page = open_page(open_service)
    page.get_by_role("button", name="Caption", exact=True).click()
    expect(page.get_by_label("Address of a picture")).to_be_focused()
    expect(page.get_by_label("Address of a picture")).to_have_accessible_description(re.compile("Enter the address"))


def test_an_address_is_pasted(open_service: Service, open_page: Open, image_server: str) -> None:
    page = open_page(open_service, elsewhere=image_server)
    page.evaluate("(text) => navigator.clipboard.writeText(text)", "nothing of use")
    page.keyboard.press("Control+V")
    expect(page.get_by_text("neither a picture nor an address")).to_be_visible()
    page.evaluate("(text) => navigator.clipboard.writeText(text)", f"{image_server}/samples/{SAMPLES[4].name}")
    page.keyboard.press("Control+V")
    expect(caption(cards(page).first)).to_have_value(TRUTHS[SAMPLES[4].name])
    expect(page.get_by_text("neither a picture nor an address")).to_be_hidden()


def test_an_address_is_fetched_by_the_service(open_service: Service, open_page: Open, image_server: str) -> None:
    page = open_page(open_service, elsewhere=image_server)
    page.get_by_label("Address of a picture").fill(f"{image_server}/samples/{SAMPLES[1].name}#a&b")
    page.get_by_role("button", name="Caption").click()
    card = cards(page).first
    expect(caption(card)).to_have_value(TRUTHS[SAMPLES[1].name])
    expect(card.get_by_text(re.compile(r"^fetch [\d.]+ ms$"))).to_be_visible()
    expect(page.get_by_label("Address of a picture")).to_have_value("")
    card.get_by_role("button", name="Copy <img> tag").click()
    expect(card.get_by_role("button", name="Copied")).to_be_visible()
    assert clipboard(page) == (
        f'<img src="{image_server}/samples/{SAMPLES[1].name}#a&amp;b" alt="{TRUTHS[SAMPLES[1].name]}">'
    )


def test_a_hostile_file_name_stays_text(open_service: Service, open_page: Open) -> None:
    name = '"><img src=x onerror="window.ran=1">&quot;<script>window.ran=1</script>.jpg'.replace("/", ":")
    page = open_page(open_service)
    page.get_by_label("Choose pictures").set_input_files(file(name, SAMPLES[0].read_bytes()))
    expect(cards(page).first.get_by_role("heading")).to_have_text(name)
    expect(caption(cards(page).first)).to_have_value(TRUTHS[SAMPLES[0].name])
    cards(page).first.get_by_role("button", name="Copy <img> tag").click()
    expect(cards(page).first.get_by_role("button", name="Copied")).to_be_visible()
    blank = page.context.new_page()
    blank.set_content(clipboard(page))
    source, alt = blank.evaluate("() => [...document.images[0].attributes].map((attribute) => attribute.value)")
    assert (unquote(source), alt) == (name, TRUTHS[SAMPLES[0].name])
    assert blank.evaluate("() => document.body.childNodes.length") == 1
    assert [tab.evaluate("() => window.ran") for tab in (page, blank)] == [None, None]
