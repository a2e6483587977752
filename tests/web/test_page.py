"""The web page, in Debian's Chromium, on the real service.

`SCREENSHOTS=docs .venv/bin/pytest tests/test_page.py -k looks` makes the pictures in docs/ anew.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from flask import Flask
from PIL import Image
from playwright.sync_api import (
    Browser,
    BrowserContext,
    FilePayload,
    Locator,
    Page,
    Request,
    Route,
    expect,
    sync_playwright,
)

from captioning.settings import Settings
from captioning.web.page_routes import page_routes
from tests.bad_servers import BadServer, Connection
from tests.conftest import EMOJI_MODEL, ROOT, SAMPLES, Service, required_program, wait_until

TRUTHS: dict[str, str] = json.loads((EMOJI_MODEL / "samples" / "captions.json").read_text())
KEY = "s3cret"

# What the browser would ask others for by itself is off: a request that is seen is the page's own.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = required_program("chromium")
    expect.set_options(timeout=30_000)  # a busy machine is no bug
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def open_service(start_service: Callable[..., Service], browser: Browser) -> Service:
    """A service without a key, its model named as a path in the project, that may fetch from loopback."""
    fetching = {"FETCH_ALLOW_PRIVATE_ADDRESSES": "true", "FETCH_ALLOWED_PORTS": "*"}
    return start_service(MODEL_ID="models/blip-emoji", **fetching).wait_until_ready()


@pytest.fixture(scope="module")
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


def test_the_empty_page_says_who_answers_and_what_to_do(open_service: Service, open_page: Open) -> None:
    page = open_page(open_service)
    expect(page.locator("body")).to_match_aria_snapshot(
        """
        - banner:
          - paragraph: SmartScan captioning
          - status: models/blip-emoji · torch · ready
        - main:
          - heading /in the picture/ [level=1]
          - paragraph: /small model .* emoji and nothing else.* BLIP-base/
          - region "Your pictures":
            - button "Choose pictures or drop them, or paste them"
            - textbox "Address of a picture"
            - button "Caption"
            - group: Options
          - region "No picture at hand? Try one of these.":
            - list:
              - listitem:
                - button "a cat above a pear on a brown background"
        - contentinfo:
          - region "The same with curl":
            - button "Copy"
            - paragraph:
              - link "The whole API"
        """
    )
    assert page.locator("#samples").get_by_role("button").count() == 12
    expect(page.get_by_role("region", name="Captions")).to_be_hidden()


def test_a_click_on_a_sample_captions_it(open_service: Service, open_page: Open) -> None:
    page = open_page(open_service)
    click_sample(page, "between-2.jpg")
    card = cards(page).first
    truth = TRUTHS["between-2.jpg"]  # asked of the service now, it might make the page's request wait for that
    expect(caption(card)).to_have_text(truth)
    expect(card.get_by_role("img")).to_have_accessible_name(truth)
    expect(card.locator("progress")).to_be_hidden()
    stages = card.get_by_role("list", name="How long each stage took")
    for stage in ("total", "decode", "queue", "generate"):
        expect(stages.get_by_text(re.compile(rf"^{stage} \d+(\.\d)? ms$"))).to_be_visible()
    expect(page.locator("#announcements")).to_have_text(f"between-2.jpg: {truth}")


def test_dropped_files_are_captioned(open_service: Service, open_page: Open) -> None:
    page = open_page(open_service, reduced_motion="no-preference")
    drop(page, SAMPLES[0], SAMPLES[6])
    expect(caption(cards(page).nth(0))).to_have_text(TRUTHS[SAMPLES[0].name])
    expect(caption(cards(page).nth(1))).to_have_text(TRUTHS[SAMPLES[6].name])
    expect(page.get_by_text("2 of 2")).to_be_visible()


def test_an_answer_from_the_cache_says_so(open_service: Service, open_page: Open) -> None:
    page = open_page(open_service)

    def say_so(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, headers={**answer.headers, "X-Cache": "hit"})

    click_sample(page, "one-1.jpg")
    expect(caption(cards(page).first)).to_be_visible()
    page.route("**/local-caption", say_so)
    click_sample(page, "one-1.jpg")
    expect(cards(page).first.get_by_text("from the cache")).to_be_visible()


def test_a_dropped_folder_is_declined(open_service: Service, open_page: Open) -> None:
    page = open_page(open_service)
    drop(page, EMOJI_MODEL)
    expect(page.get_by_text("folders cannot be read here")).to_be_visible()
    assert cards(page).count() == 0


def test_a_picture_is_pasted(open_service: Service, open_page: Open) -> None:
    """The clipboard takes PNG only; what it holds is pasted with the keys that people press."""
    picture = io.BytesIO()
    Image.open(SAMPLES[2]).save(picture, "PNG")
    page = open_page(open_service)
    page.evaluate(
        """async (base64) => {
            const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
            const picture = new Blob([bytes], { type: "image/png" });
            await navigator.clipboard.write([new ClipboardItem({ "image/png": picture })]);
        }""",
        base64.b64encode(picture.getvalue()).decode(),
    )
    page.keyboard.press("Control+V")
    expect(caption(cards(page).first)).to_have_text(TRUTHS[SAMPLES[2].name])


def test_an_address_is_pasted(open_service: Service, open_page: Open, image_server: str) -> None:
    page = open_page(open_service, elsewhere=image_server)
    page.evaluate("(text) => navigator.clipboard.writeText(text)", "nothing of use")
    page.keyboard.press("Control+V")
    expect(page.get_by_text("neither a picture nor an address")).to_be_visible()
    page.evaluate("(text) => navigator.clipboard.writeText(text)", f"{image_server}/samples/{SAMPLES[4].name}")
    page.keyboard.press("Control+V")
    expect(caption(cards(page).first)).to_have_text(TRUTHS[SAMPLES[4].name])
    expect(page.get_by_text("neither a picture nor an address")).to_be_hidden()


def test_an_address_is_fetched_by_the_service(open_service: Service, open_page: Open, image_server: str) -> None:
    page = open_page(open_service, elsewhere=image_server)
    page.get_by_label("Address of a picture").fill(f"{image_server}/samples/{SAMPLES[1].name}#a&b")
    page.get_by_role("button", name="Caption").click()
    card = cards(page).first
    expect(caption(card)).to_have_text(TRUTHS[SAMPLES[1].name])
    expect(card.get_by_text(re.compile(r"^fetch [\d.]+ ms$"))).to_be_visible()
    expect(page.get_by_label("Address of a picture")).to_have_value("")
    card.get_by_role("button", name="Copy <img> tag").click()
    expect(card.get_by_role("button", name="Copied")).to_be_visible()
    assert clipboard(page) == (
        f'<img src="{image_server}/samples/{SAMPLES[1].name}#a&amp;b" alt="{TRUTHS[SAMPLES[1].name]}">'
    )


def test_many_pictures_make_progress_each_on_its_own(open_service: Service, open_page: Open, tmp_path: Path) -> None:
    """While the service stands still and the network is slow, four are sent, a large one among them; others queue."""
    page = open_page(open_service)
    slow_down(page)
    large = large_file(tmp_path, 15_000_000)
    with standing_still(open_service):
        page.get_by_label("Choose pictures").set_input_files([large, *SAMPLES[:5]])
        expect(cards(page)).to_have_count(6)
        expect(cards(page).locator(".state", has_text="Captioning…")).to_have_count(3)
        expect(cards(page).locator(".state", has_text="Queued")).to_have_count(2)
        uploading = cards(page).filter(has_text="large.jpg")
        expect(uploading.locator(".state")).to_have_text(re.compile(r"^Uploading, [1-9]\d?%$"))
        assert 0 < float(uploading.get_by_role("progressbar").get_attribute("value") or 0) < 1
        cards(page).nth(5).get_by_role("button", name="Remove").click()
        uploading.get_by_role("button", name="Remove large.jpg").click()
        expect(cards(page)).to_have_count(4)
    for card, sample in zip(cards(page).all(), SAMPLES[:4], strict=True):
        expect(caption(card)).to_have_text(TRUTHS[sample.name])
    expect(page.get_by_text("4 of 4")).to_be_visible()
    page.get_by_role("button", name="Remove all").click()
    expect(page.get_by_role("region", name="Captions")).to_be_hidden()


def test_removing_a_card_ends_its_upload(open_service: Service, open_page: Open) -> None:
    page = open_page(open_service)
    with standing_still(open_service):
        page.get_by_label("Choose pictures").set_input_files(SAMPLES[0])
        expect(cards(page).first.locator(".state")).to_have_text("Captioning…")
        with page.expect_event("requestfailed") as failed:
            page.get_by_role("button", name=f"Remove {SAMPLES[0].name}").click()
        expect(page.get_by_label("Choose pictures")).to_be_focused()
    assert (failed.value.url, failed.value.failure) == (f"{open_service.url}/local-caption", "net::ERR_ABORTED")


def test_an_error_is_the_services_sentence(open_service: Service, open_page: Open, image_server: str) -> None:
    page = open_page(open_service, elsewhere=image_server)
    page.get_by_label("Choose pictures").set_input_files(file("notes.txt", b"not a picture"))
    card = cards(page).first
    answer = open_service.upload(b"not a picture").json()
    expect(card.locator(".sentence")).to_have_text(answer["error"])
    expect(card.locator(".code")).to_have_text("unsupported_image")
    expect(card.get_by_role("button", name="Try again")).to_be_hidden()
    expect(page.locator("#announcements")).to_have_text(f"notes.txt: {answer['error']}")

    page.get_by_label("Address of a picture").fill(f"{image_server}/status/500")
    page.keyboard.press("Enter")
    expect(cards(page).first.locator(".code")).to_have_text("image_fetch_failed")
    with page.expect_response("**/local-caption") as again:
        cards(page).first.get_by_role("button", name="Try again").click()
    assert again.value.status == 502
    expect(cards(page).first.locator(".code")).to_have_text("image_fetch_failed")
    expect(cards(page).first.get_by_role("button", name="Remove")).to_be_focused()


def test_a_picture_over_the_limit_is_refused_with_the_services_sentence(
    open_service: Service, open_page: Open, tmp_path: Path
) -> None:
    page = open_page(open_service)
    page.get_by_label("Choose pictures").set_input_files(large_file(tmp_path, 20_000_000))
    expect(cards(page).first.locator(".sentence")).to_contain_text("over the limit of")


def test_a_key_is_asked_for_and_kept_in_the_tab_only(narrow_service: Service, open_page: Open) -> None:
    page = open_page(narrow_service)
    expect(page.get_by_label("API key")).to_be_hidden()
    click_sample(page, "one-1.jpg")
    expect(cards(page).first.locator(".code")).to_have_text("unauthorized")
    for key, outcome in (("wrong", "unauthorized"), (KEY, TRUTHS["one-1.jpg"])):
        page.get_by_label("API key").fill(key)
        page.keyboard.press("Enter")
        expect(cards(page).first).to_contain_text(outcome)
    expect(page.get_by_label("API key")).to_be_hidden()
    assert page.evaluate("() => [localStorage.length, document.cookie, { ...sessionStorage }]") == [
        0, "", {"api-key": KEY}
    ]  # fmt: skip


def test_a_busy_service_is_asked_again(narrow_service: Service, open_page: Open) -> None:
    """A caption that waits for its picture holds the only permit; the page waits for as long as it is told to."""

    def answer_late(connection: Connection) -> None:
        connection.read_request()
        connection.sleep(60)

    page = open_page(narrow_service)
    page.evaluate("(key) => sessionStorage.setItem('api-key', key)", KEY)
    key = {"Authorization": f"Bearer {KEY}"}
    with ThreadPoolExecutor(1) as caller, BadServer(answer_late) as slow:
        caller.submit(narrow_service.post, json={"imageUrl": slow.url("/a.png")}, headers=key)
        wait_until(lambda: slow.connections == 1)
        click_sample(page, "two-alike-2.jpg")
        state = cards(page).first.locator(".state")
        expect(state).to_have_text(re.compile(r"^The service is busy\. Asking again in \d+ s \(try 2\)\.$"))
    expect(caption(cards(page).first)).to_have_text(TRUTHS["two-alike-2.jpg"], timeout=20_000)


def test_the_status_follows_the_service(start_service: Callable[..., Service], open_page: Open) -> None:
    service = start_service()
    wait_until(lambda: "Booting worker" in service.log.read_text())
    page = open_page(service, ready=False)
    status = page.get_by_role("status").first
    click_sample(page, "one-1.jpg")
    expect(status).to_have_text("blip-emoji · torch · ready", timeout=60_000)
    expect(caption(cards(page).first)).to_have_text(TRUTHS["one-1.jpg"], timeout=30_000)
    assert service.stop() == 0
    click_sample(page, "one-2.jpg")
    expect(status).to_have_text("The service is out of reach")
    expect(cards(page).first.locator(".sentence")).to_contain_text("out of reach")
    expect(cards(page).first.get_by_role("button", name="Try again")).to_be_visible()


def test_the_page_works_with_the_keyboard_alone(open_service: Service, open_page: Open) -> None:
    page = open_page(open_service)
    # Long before it opens: the browser is told in its own time to hand the dialog over, and shows none otherwise.
    page.on("filechooser", lambda chooser: chooser.set_files(SAMPLES[3]))
    page.keyboard.press("Tab")
    expect(page.get_by_label("Choose pictures")).to_be_focused()
    page.keyboard.press("Space")
    expect(caption(cards(page).first)).to_have_text(TRUTHS[SAMPLES[3].name])
    for _ in range(4):
        page.keyboard.press("Tab")
    expect(page.locator("#samples").get_by_role("button").first).to_be_focused()
    assert page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(caption(cards(page).first)).to_have_text(TRUTHS[SAMPLES[0].name])
    copy = cards(page).first.get_by_role("button", name="Copy caption")
    for _ in range(20):
        page.keyboard.press("Tab")
        if copy.evaluate("(button) => button === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect(cards(page).first.get_by_role("button", name="Copied")).to_be_focused()
    assert clipboard(page) == TRUTHS[SAMPLES[0].name]


def test_a_hostile_file_name_stays_text(open_service: Service, open_page: Open) -> None:
    name = '"><img src=x onerror="window.ran=1">&quot;<script>window.ran=1</script>.jpg'.replace("/", ":")
    page = open_page(open_service)
    page.get_by_label("Choose pictures").set_input_files(file(name, SAMPLES[0].read_bytes()))
    expect(cards(page).first.get_by_role("heading")).to_have_text(name)
    expect(caption(cards(page).first)).to_have_text(TRUTHS[SAMPLES[0].name])
    cards(page).first.get_by_role("button", name="Copy <img> tag").click()
    expect(cards(page).first.get_by_role("button", name="Copied")).to_be_visible()
    blank = page.context.new_page()
    blank.set_content(clipboard(page))
    source, alt = blank.evaluate("() => [...document.images[0].attributes].map((attribute) => attribute.value)")
    assert (unquote(source), alt) == (name, TRUTHS[SAMPLES[0].name])
    assert blank.evaluate("() => document.body.childNodes.length") == 1
    assert [tab.evaluate("() => window.ran") for tab in (page, blank)] == [None, None]


def test_options_hold_for_the_pictures_that_follow(open_service: Service, open_page: Open) -> None:
    page = open_page(open_service)
    page.get_by_text("Options", exact=True).click()
    page.get_by_label("Begin the caption with").fill("a picture of")
    page.get_by_label("Most tokens").fill("4")
    page.get_by_label("Beams").fill("2")
    click_sample(page, "one-1.jpg")
    options: dict[str, Any] = {"prompt": "a picture of", "maxNewTokens": 4, "numBeams": 2}
    answer = open_service.upload((EMOJI_MODEL / "samples" / "one-1.jpg").read_bytes(), params=options)
    expect(caption(cards(page).first)).to_have_text(answer.json()["output"])
    page.get_by_label("Beams").fill("9")
    click_sample(page, "one-2.jpg")
    expect(cards(page).first.locator(".code")).to_have_text("invalid_parameter")


def test_the_curl_line_works_as_it_is_copied(open_service: Service, open_page: Open) -> None:
    page = open_page(open_service)
    page.get_by_role("region", name="curl").get_by_role("button").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    command = clipboard(page)
    assert command.count(open_service.url) == 2
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(ran.stdout) == {"output": TRUTHS[SAMPLES[0].name]}


def test_without_scripts_the_page_says_how_to_do_without_it(open_service: Service, open_page: Open) -> None:
    page = open_page(open_service, ready=False, java_script_enabled=False)
    line = page.locator("noscript code").text_content() or ""
    assert shlex.split(line) == ["curl", f"{open_service.url}/local-caption", "-F", "image=@picture.jpg"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_the_contrast_that_aa_asks_for(open_service: Service, open_page: Open, scheme: str) -> None:
    page = open_page(open_service, color_scheme=scheme)
    page.get_by_text("Options", exact=True).click()
    page.get_by_label("Choose pictures").set_input_files(file("notes.txt", b"not a picture"))
    click_sample(page, "one-1.jpg")
    expect(caption(cards(page).first)).to_be_visible()
    expect(cards(page).last.locator(".sentence")).to_be_visible()
    page.locator("#key-form").evaluate("(form) => (form.hidden = false)")
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


def test_only_the_samples_that_are_there_are_offered(tmp_path: Path, open_service: Service) -> None:
    for path in ("/samples/captions.json", "/samples/..%2fconfig.json", "/samples/nowhere.jpg", "/static/nowhere.js"):
        assert open_service.get(path).json()["code"] == "not_found"
    app = Flask("app", static_folder=None)
    app.register_blueprint(page_routes(Settings(), samples=tmp_path))
    page = app.test_client().get("/").text
    assert "picture at hand" not in page
    (tmp_path / "captions.json").write_text('{"one.jpg": "a <b>", "gone.jpg": "nothing"}')
    (tmp_path / "one.jpg").write_bytes(b"")
    app = Flask("app", static_folder=None)
    app.register_blueprint(page_routes(Settings(), samples=tmp_path))
    page = app.test_client().get("/").text
    assert 'alt="a &lt;b&gt;"' in page
    assert "gone.jpg" not in page


def test_every_file_of_the_page_is_kept_strict_and_asked_about_again(open_service: Service) -> None:
    files = sorted(path.name for path in (ROOT / "captioning" / "web" / "static").iterdir())
    for path in ("/", f"/samples/{SAMPLES[0].name}", *(f"/static/{name}" for name in files)):
        answer = open_service.get(path)
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "no-cache"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        policy = answer.headers["Content-Security-Policy"].split("; ")
        assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"} <= set(policy)
        if path != "/":
            again = open_service.get(path, headers={"If-None-Match": answer.headers["ETag"]})
            assert (again.status_code, again.content) == (304, b"")


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
