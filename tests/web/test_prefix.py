"""The service below a prefix of its host's paths: behind a proxy that takes it off, and one that leaves it on."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
import requests

from tests.conftest import EMOJI_MODEL, SAMPLES, Service, free_port, is_there, required_program, wait_until

SCRIPTS = sorted((Path(__file__).resolve().parents[2] / "captioning" / "web" / "static").glob("*.js"))

NGINX = """
daemon off; error_log stderr; pid {folder}/pid;
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_buffer_size 1m;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port};
    location /ai/ {{ proxy_pass {url}{path}; }}
  }}
}}
"""


@pytest.fixture(scope="module", params=["taken off", "left on"])
def below(
    request: pytest.FixtureRequest, start_service: Callable[..., Service], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Yield the URL of the page, behind nginx."""
    nginx = required_program("nginx")
    left_on = request.param == "left on"
    service = start_service(MODEL_ID=str(EMOJI_MODEL), **({"SCRIPT_NAME": "/ai"} if left_on else {}))
    folder = tmp_path_factory.mktemp("nginx")
    port = free_port()
    config = NGINX.format(folder=folder, port=port, url=service.url, path="" if left_on else "/")
    (folder / "nginx.conf").write_text(config)
    proxy = subprocess.Popen([nginx, "-p", str(folder), "-c", "nginx.conf"], stderr=subprocess.DEVNULL)
    page = f"http://127.0.0.1:{port}/ai/"

    try:
        wait_until(lambda: is_there(f"{page}readyz"))
        yield page
    finally:
        proxy.terminate()
        proxy.wait()
        service.stop()


def links(url: str) -> set[str]:
    html = requests.get(url, timeout=10)
    assert html.status_code == 200
    found = {urljoin(url, link) for link in re.findall(r'(?:href|src)="([^"#]+)"', html.text)}
    assert found
    return {link for link in found if link.startswith("http://127.0.0.1")}


@pytest.mark.parametrize("page", ["", "docs"])
def test_all_that_a_page_links_to_and_loads_is_there(below: str, page: str) -> None:
    for link in links(below + page):
        assert link.startswith(below)
        assert requests.get(link, timeout=10).status_code == 200, link


def test_the_description_says_where_to_ask(below: str) -> None:
    description = requests.get(f"{below}openapi.json", timeout=10)
    server = urljoin(description.url, description.json()["servers"][0]["url"])
    for path in description.json()["paths"]:
        assert requests.get(server.removesuffix("/") + path, timeout=10).status_code != 404, path
    asked: dict[str, Any] = {"data": SAMPLES[0].read_bytes(), "headers": {"Content-Type": "image/jpeg"}}
    assert requests.request("POST", f"{server.removesuffix('/')}/local-caption", timeout=60, **asked).ok


def test_errors_below_it_are_as_always(below: str) -> None:
    answer = requests.get(f"{below}nowhere", timeout=10)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_ask_below_wherever_their_page_is(script: Path) -> None:
    assert not re.search(r"""(?:fetch|open|import|from)\b[^\n]*["'`]/""", script.read_text())


def test_what_is_not_below_the_prefix_is_not_there(start_service: Callable[..., Service]) -> None:
    service = start_service(MODEL_ID=str(EMOJI_MODEL), SCRIPT_NAME="/ai")
    wait_until(lambda: "Booting worker" in service.log.read_text())
    for path in ("/healthz", "/aix/healthz"):
        answer = service.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert service.get("/ai/healthz").status_code == 200
    assert service.get("/ai").url.rstrip("/") == f"{service.url}/ai"
    assert service.stop() == 0
