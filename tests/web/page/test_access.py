"""The page for everybody: by keyboard, with a screen reader, on a small screen, without scripts."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import SAMPLES, Service, required_program
from tests.web.page.actions import TRUTHS, Open, caption, cards, click_sample, clipboard, file


def test_the_page_works_with_the_keyboard_alone(open_service: Service, open_page: Open) -> None:
    page = open_page(open_service)
    # Long before it opens: the browser is told in its own time to hand the dialog over, and shows none otherwise.
    page.on("filechooser", lambda chooser: chooser.set_files(SAMPLES[3]))
    page.keyboard.press("Tab")
    expect(page.get_by_label("Choose pictures")).to_be_focused()
    page.keyboard.press("Space")
    expect(caption(cards(page).first)).to_have_value(TRUTHS[SAMPLES[3].name])
    for _ in range(4):
        page.keyboard.press("Tab")
    expect(page.locator("#samples").get_by_role("button").first).to_be_focused()
    assert page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(caption(cards(page).first)).to_have_value(TRUTHS[SAMPLES[0].name])
    page.keyboard.press("Tab")
    expect(caption(cards(page).first)).to_be_focused()
    page.keyboard.press("Tab")
    expect(cards(page).first.get_by_role("button", name="Copy caption")).to_be_focused()
    page.keyboard.press("Enter")
    expect(cards(page).first.get_by_role("button", name="Copied")).to_be_focused()
    assert clipboard(page) == TRUTHS[SAMPLES[0].name]


AXE = "axe-core@4.14.1"


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core, which checks pages against WCAG; from npm, for this test alone."""
    folder = tmp_path_factory.mktemp("axe")
    install = [required_program("npm"), "install", "--no-audit", "--no-fund", "--ignore-scripts", AXE]
    installed = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=180)
    assert installed.returncode == 0, installed.stderr
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


def show_all(page: Page) -> Page:
    """Show a caption, a failure, wrong options, the forms, the undo."""
    page.get_by_label("Choose pictures").set_input_files([file(f"{n}.txt", b"not a picture") for n in range(3)])
    expect(page.locator(".sentence:visible")).to_have_count(3)
    click_sample(page, "one-1.jpg")
    expect(caption(cards(page).first)).to_be_visible()
    cards(page).last.get_by_role("button", name="Remove").click()
    page.get_by_text("Options", exact=True).click()
    page.get_by_label("Beams").fill("9")
    page.get_by_label("Beams").blur()
    page.evaluate("() => ['key-form', 'outage'].forEach((id) => (document.getElementById(id).hidden = false))")
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(open_service: Service, open_page: Open, axe: str, scheme: str) -> None:
    page = open_page(open_service, color_scheme=scheme)
    assert violations(page, axe) == {}
    assert violations(show_all(page), axe) == {}
    page.goto(f"{open_service.url}/docs")
    assert violations(page, axe) == {}


def violations(page: Page, axe: str) -> dict[str, list[str]]:
    page.evaluate(axe)
    found = page.evaluate("() => axe.run()")
    assert len(found["passes"]) > 15
    return {each["id"]: [node["html"] for node in each["nodes"]] for each in found["violations"]}


@pytest.mark.parametrize("width", [360, 1280])
def test_all_that_is_pressed_is_44_pixels_wide_and_high(open_service: Service, open_page: Open, width: int) -> None:
    page = show_all(open_page(open_service, viewport={"width": width, "height": 800}))
    targets = "a, button, input:not(.visually-hidden), textarea, summary, .drop"
    sizes: dict[str, tuple[float, float]] = page.evaluate(
        """(targets) => Object.fromEntries([...document.querySelectorAll(targets)]
            .filter((target) => target.checkVisibility())
            .map((target) => [target.outerHTML, target.getBoundingClientRect()])
            .map(([html, { width, height }]) => [html, [width, height]]))""",
        targets,
    )
    assert len(sizes) > 30
    assert {html: size for html, size in sizes.items() if min(size) < 44} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_the_contrast_that_aa_asks_for(open_service: Service, open_page: Open, scheme: str) -> None:
    page = show_all(open_page(open_service, color_scheme=scheme))
    ratios: dict[str, float] = page.evaluate(CONTRASTS)
    assert len(ratios) > 25
    assert {what: ratio for what, ratio in ratios.items() if ratio < 4.5} == {}


CONTRASTS = """() => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const pixel = (...colours) => {
        for (const colour of ["#fff", ...colours]) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
        return [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)];
    };
    const luminance = (rgb) => rgb
        .map((value) => value / 255)
        .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
        .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
    const ratios = {};
    for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!own && element.localName !== "input" || !element.checkVisibility()) continue;
        const behind = [];
        for (let at = element; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
        const pseudo = element.localName === "input" ? "::placeholder" : null;
        const [lower, upper] = [pixel(...behind), pixel(...behind, getComputedStyle(element, pseudo).color)]
            .map(luminance).sort((a, b) => a - b);
        ratios[`${element.localName}.${element.className} ${element.textContent.trim()}`] =
            (upper + 0.05) / (lower + 0.05);
    }
    return ratios;
}"""


@pytest.mark.parametrize(("width", "height"), [(360, 740), (640, 400)], ids=["a phone", "200% zoom"])
def test_nothing_is_cut_off_on_a_narrow_screen(open_service: Service, open_page: Open, width: int, height: int) -> None:
    page = open_page(open_service, viewport={"width": width, "height": height})
    page.get_by_text("Options", exact=True).click()
    name = "a" * 120
    page.get_by_label("Address of a picture").fill(f"ftp://example.com/{name}.png")
    page.keyboard.press("Enter")
    expect(cards(page).first.locator(".sentence")).to_be_visible()
    click_sample(page, "between-1.jpg")
    expect(caption(cards(page).first)).to_be_in_viewport()
    assert page.evaluate("() => document.documentElement.scrollWidth") == width
    clipped = page.evaluate(
        "() => [...document.querySelectorAll('button')].filter((b) => b.scrollWidth > b.clientWidth + 1).length"
    )
    assert clipped == 0


def test_without_scripts_the_page_says_how_to_do_without_it(open_service: Service, open_page: Open) -> None:
    page = open_page(open_service, ready=False, java_script_enabled=False)
    line = page.locator("noscript code").text_content() or ""
    assert shlex.split(line) == ["curl", f"{open_service.url}/local-caption", "-F", "image=@picture.jpg"]
