"""Workers are replaced under load, in every way that gunicorn has, and nobody is refused."""

from __future__ import annotations

import pytest

from benchmarks.reload import RELOADS, measure
from tests.conftest import EMOJI_MODEL


@pytest.mark.parametrize("name", RELOADS)
def test_nobody_is_refused_while_workers_are_replaced(name: str) -> None:
    """123 captions were refused in one HUP, and 1,548 of 2,542 with --max-requests."""
    outcomes = measure(name, rate=5, settings={"MODEL_ID": str(EMOJI_MODEL), "CACHE_MAX_ENTRIES": "0"})
    assert outcomes.keys() == {"200"}, outcomes
