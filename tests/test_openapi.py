"""The API's description holds for the service that runs, and the service holds against what is made from it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import requests
import schemathesis
from conftest import ROOT, SAMPLES, Service
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from captioning.errors import CaptioningError
from captioning.openapi import describe_api, error_classes


@pytest.fixture(scope="module")
def api(service: Service) -> Any:
    return schemathesis.openapi.from_url(f"{service.url}/openapi.json")


schema = schemathesis.pytest.from_fixture("api")


# An image's server that does not exist is a 502, as documented; a string that looks like a URL may still be none.
@(schema.parametrize())
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_the_service_answers_as_described(case: schemathesis.Case, service: Service) -> None:
    response = case.call_and_validate(excluded_checks=[not_a_server_error, positive_data_acceptance])
    assert response.status_code < 500 or response.json()["code"] in (
        "image_fetch_failed",
        "image_fetch_timeout",
        "deadline_exceeded",
    )


def test_every_code_of_the_readme_s_table_is_described_with_an_example() -> None:
    table = set(
        re.findall(
            r"`([a-z_]+)`",
            "\n".join(line for line in (ROOT / "README.md").read_text().splitlines() if re.match(r"\| \d{3}", line)),
        )
    )
    description = describe_api(keys_needed=True)
    answers = description["paths"]["/local-caption"]["post"]["responses"]
    described = {
        code: (int(status), example["value"]["error"])
        for status, answer in answers.items()
        for code, example in answer["content"]["application/json"].get("examples", {}).items()
    }
    assert described.keys() | {"not_found", "method_not_allowed"} == table
    tree = {error.code: (error.status, error.sentence) for error in error_classes(CaptioningError)}
    assert described.items() <= tree.items()
