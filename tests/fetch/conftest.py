"""What all tests of the fetcher may use."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from captioning.fetch import destinations
from captioning.fetch.addresses import is_public_unicast
from tests.fetch.local import Names, look_ups


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Keep every look-up on this machine."""
    resolver = Names()
    monkeypatch.setattr(socket, "getaddrinfo", resolver.getaddrinfo)
    return resolver


@pytest.fixture
def public_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 127.0.0.2 stand for the public internet; all other addresses are judged as ever."""
    monkeypatch.setattr(destinations, "is_public_unicast", lambda a: a == "127.0.0.2" or is_public_unicast(a))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_for(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return a maker of server contexts whose certificates a new fetcher trusts."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))

    def context(*hosts: str) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*hosts).configure_cert(made)
        return made

    return context


@pytest.fixture
def stuck_resolver(names: Names, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let look-ups hang until the test is over, but those of names that are told."""
    over = threading.Event()

    def hang(host: str, *arguments: Any, **options: Any) -> list[Any]:
        if host in names.answers:
            return names.getaddrinfo(host, *arguments, **options)
        over.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "at last")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    yield
    over.set()
    for thread in look_ups():
        thread.join(5)
