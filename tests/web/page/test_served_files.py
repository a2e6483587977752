"""What the page is made of, as it is served."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from flask import Flask
from playwright.sync_api import expect

from captioning.settings import Settings
from captioning.web.page_routes import page_routes
from tests.conftest import ROOT, SAMPLES, Service
from tests.web.page.actions import TRUTHS, Open, clipboard


def test_the_curl_line_works_as_it_is_copied(open_service: Service, open_page: Open) -> None:
    page = open_page(open_service)
    page.get_by_role("region", name="curl").get_by_role("button").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    command = clipboard(page)
    assert command.count(open_service.url) == 2
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(ran.stdout) == {"output": TRUTHS[SAMPLES[0].name]}


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
