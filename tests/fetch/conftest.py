"""What all tests of the fetcher may use."""

from __future__ import annotations

import socket

import pytest

from tests.fetch.local import Names


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Keep every look-up on this machine."""
    resolver = Names()
    monkeypatch.setattr(socket, "getaddrinfo", resolver.getaddrinfo)
    return resolver
