"""The API's description holds for the service that runs, and the service holds against what is made from it."""

from __future__ import annotations

import re
import subprocess
import sys

from captioning.web.openapi import describe_api, error_classes
from tests.conftest import ROOT, Service

API = (ROOT / "docs" / "api.md").read_text()


def test_schemathesis_finds_no_answer_that_is_not_described(service: Service) -> None:
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", "tests/schemathesis.toml"),
            *("run", f"{service.url}/openapi.json", "--max-examples", "30", "--generation-deterministic"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stdout
    assert "4 selected / 4 total" in ran.stdout
    assert service.get("/readyz").status_code == 200


def test_every_code_of_the_table_is_described_with_its_sentence() -> None:
    rows = "\n".join(re.findall(r"^\| \d{3}[^|]*\|([^|]*)\|", API, re.MULTILINE))
    answers = describe_api(keys_needed=True)["paths"]["/local-caption"]["post"]["responses"]
    described = {
        code: (int(status), example["value"]["error"])
        for status, answer in answers.items()
        for code, example in answer["content"]["application/json"].get("examples", {}).items()
    }
    assert described.keys() | {"not_found", "method_not_allowed"} == set(re.findall(r"`([a-z_]+)`", rows))
    assert described.items() <= {error.code: (error.status, error.sentence) for error in error_classes()}.items()


def test_a_key_is_described_where_one_is_needed() -> None:
    assert "security" not in describe_api(keys_needed=False)["paths"]["/local-caption"]["post"]
    operations = describe_api(keys_needed=True)["paths"]
    needed = {path for path, methods in operations.items() for one in methods.values() if "security" in one}
    assert needed == {"/local-caption", "/local-captions"}


def test_the_page_shows_every_route_option_and_code_and_loads_nothing_from_elsewhere(service: Service) -> None:
    page = service.get("/docs")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    for word in ("/local-caption", "/local-captions", "/readyz", "numBeams", "imageUrls", "X-Request-Timeout-Ms"):
        assert f"<code>{word}</code>" in page.text
    for error in error_classes():
        assert error.code in page.text or error.code in ("unauthorized", "not_found", "method_not_allowed")
    assert set(re.findall(r'(?:src|href)="((?:[a-z]+:)?/[^"]*)"', page.text)) == set()
