"""What the worker rests on in gunicorn: an upgrade that changes it fails here, in one sentence."""

from __future__ import annotations

import importlib
from types import FunctionType

import pytest

from captioning.server.worker import GUNICORN_NAMES


@pytest.mark.parametrize(("path", "name"), [(path, name) for path, names in GUNICORN_NAMES.items() for name in names])
def test_gunicorn_has_what_the_worker_rests_on(path: str, name: str) -> None:
    module, _, owner = path.rpartition(".")
    owned = getattr(importlib.import_module(module), owner)
    methods = [value.__code__ for value in vars(owned).values() if isinstance(value, FunctionType)]
    attributes = set(dir(owned)).union(*(method.co_names for method in methods))
    assert name in attributes, f"gunicorn's {path} has no {name} any more."
