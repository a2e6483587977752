"""What a card shows while it waits, and when there is no caption."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from playwright.sync_api import Route, expect

from tests.bad_servers import BadServer, Connection
from tests.conftest import SAMPLES, Service, wait_until
from tests.web.page.actions import (
    KEY,
    TRUTHS,
    Open,
    caption,
    cards,
    click_sample,
    file,
    large_file,
    slow_down,
    standing_still,
)


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
            - button "Choose pictures or drop them, or a folder of them, or paste them"
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
        expect(caption(card)).to_have_value(TRUTHS[sample.name])
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
        expect(page.get_by_role("button", name="Undo")).to_be_focused()
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
    expect(cards(page).first.get_by_role("heading")).to_be_focused()


def test_a_picture_over_the_limit_is_refused_with_the_services_sentence(
    open_service: Service, open_page: Open, tmp_path: Path
) -> None:
    page = open_page(open_service)
    page.get_by_label("Choose pictures").set_input_files(large_file(tmp_path, 20_000_000))
    expect(cards(page).first.locator(".sentence")).to_contain_text("over the limit of")


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
    expect(caption(cards(page).first)).to_have_value(TRUTHS["two-alike-2.jpg"], timeout=20_000)


def test_the_status_follows_the_service(start_service: Callable[..., Service], open_page: Open) -> None:
    service = start_service()
    wait_until(lambda: "Booting worker" in service.log.read_text())
    page = open_page(service, ready=False)
    status = page.get_by_role("status").first
    click_sample(page, "one-1.jpg")
    expect(status).to_have_text("blip-emoji · torch · ready", timeout=60_000)
    expect(caption(cards(page).first)).to_have_value(TRUTHS["one-1.jpg"], timeout=30_000)
    assert service.stop() == 0
    click_sample(page, "one-2.jpg")
    expect(status).to_have_text("The service is out of reach")
    expect(cards(page).first.locator(".sentence")).to_contain_text("out of reach")
    expect(cards(page).first.get_by_role("button", name="Try again")).to_be_visible()
