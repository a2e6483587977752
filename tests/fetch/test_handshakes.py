"""TLS as servers have it: a handshake that fails says why, in one sentence each."""

from __future__ import annotations

import socket
import ssl
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from captioning import errors
from tests.bad_servers import BadServer, Behaviour, Connection, answer_with, http_answer
from tests.fetch.local import Names, make_fetcher

NOW = datetime.now(UTC)
HOST = "pictures.example"
PICTURE = http_answer(b"picture")
ANSWER = answer_with(PICTURE)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(autouse=True)
def trusted(authority: trustme.CA, names: Names, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let the fetcher trust one authority, and find the host on this machine."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    names.tell(HOST, ["127.0.0.1"])


def context(certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if certificate:
        certificate.configure_cert(made)
    return made


def failure(tls: ssl.SSLContext | None, behaviour: Behaviour = ANSWER) -> errors.ImageFetchFailed:
    with BadServer(behaviour, tls=tls) as server, pytest.raises(errors.ImageFetchFailed) as failed:
        make_fetcher().fetch(server.url("/a?key=secret", host=HOST).replace("http:", "https:"))
    assert server.requests == []  # nobody is told the URL before he is known
    assert "secret" not in str(failed.value)
    assert failed.value.detail
    assert "127.0.0.1" not in failed.value.message
    return failed.value


def test_a_sound_handshake_brings_the_picture(authority: trustme.CA) -> None:
    with BadServer(answer_with(PICTURE), tls=context(authority.issue_cert(HOST))) as server:
        assert make_fetcher().fetch(server.url(host=HOST)) == b"picture"


def test_an_international_host_is_named_in_ascii(authority: trustme.CA, names: Names) -> None:
    names.tell("xn--i-7iq.pictures.example", ["127.0.0.1"])
    tls, asked_for = context(authority.issue_cert("*.pictures.example")), []
    tls.sni_callback = lambda _socket, name, _context: asked_for.append(name)
    with BadServer(answer_with(PICTURE), tls=tls) as server:
        assert make_fetcher().fetch(server.url(host="i\u2764.pictures.example")) == b"picture"
    assert asked_for == ["xn--i-7iq.pictures.example"]


# ---- certificates


def test_an_issuer_that_is_not_trusted() -> None:
    assert "issuer that is not trusted" in failure(context(trustme.CA().issue_cert(HOST))).message


def test_an_intermediate_that_is_not_sent_along(authority: trustme.CA) -> None:
    leaf = authority.create_child_ca().issue_cert(HOST)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with leaf.private_key_pem.tempfile() as key, leaf.cert_chain_pems[0].tempfile() as certificate:
        tls.load_cert_chain(certificate, key)
    assert "issuer that is not trusted" in failure(tls).message


def test_a_certificate_of_its_own_issue(tmp_path: Path) -> None:
    itself = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with itself.cert_pem.tempfile() as certificate, itself.private_key_pem.tempfile() as key:
        tls.load_cert_chain(certificate, key)
    assert "issuer that is not trusted" in failure(tls).message


def test_a_certificate_that_has_expired(authority: trustme.CA) -> None:
    old = authority.issue_cert(HOST, not_before=NOW - timedelta(days=90), not_after=NOW - timedelta(days=1))
    assert "has expired" in failure(context(old)).message


def test_a_certificate_that_is_not_yet_valid(authority: trustme.CA) -> None:
    young = authority.issue_cert(HOST, not_before=NOW + timedelta(days=2), not_after=NOW + timedelta(days=90))
    assert "not yet valid" in failure(context(young)).message


def test_a_certificate_for_another_name(authority: trustme.CA) -> None:
    for other in ("other.example", "pictures.example.net", "*.pictures.example", "127.0.0.1"):
        assert "another host name" in failure(context(authority.issue_cert(other))).message


def test_a_certificate_for_another_address(authority: trustme.CA) -> None:
    with (
        BadServer(answer_with(PICTURE), tls=context(authority.issue_cert("127.0.0.9"))) as server,
        pytest.raises(errors.ImageFetchFailed, match="another address"),
    ):
        make_fetcher().fetch(server.url())


# ---- what both sides have in common


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_only_versions_of_tls_that_are_no_longer_secure(authority: trustme.CA, version: ssl.TLSVersion) -> None:
    tls = context(authority.issue_cert(HOST))
    tls.set_ciphers("ALL:@SECLEVEL=0")
    tls.minimum_version = ssl.TLSVersion.TLSv1
    tls.maximum_version = version
    assert "no version of TLS" in failure(tls).message


def alert(number: int) -> Behaviour:
    """Answer a ClientHello with a fatal alert (RFC 8446, section 6)."""

    def behave(connection: Connection) -> None:
        connection.client.recv(65_536)
        connection.send(struct.pack("!BHHBB", 21, 0x0303, 2, 2, number))
        connection.client.recv(1)

    return behave


def hello_of(version: int, cipher: int) -> Behaviour:
    """Answer a ClientHello with a ServerHello of a version and a cipher that were not offered."""

    def behave(connection: Connection) -> None:
        connection.client.recv(65_536)
        hello = struct.pack("!H32sBHB", version, bytes(32), 0, cipher, 0)
        message = struct.pack("!BBH", 2, 0, len(hello)) + hello
        connection.send(struct.pack("!BHH", 22, min(version, 0x0303), len(message)) + message)
        connection.client.recv(1)

    return behave


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        pytest.param(alert(70), "no version of TLS", id="the server knows no such version"),
        pytest.param(hello_of(0x0300, 0x0005), "no version of TLS", id="SSL 3"),
        pytest.param(hello_of(0x0301, 0x0005), "no version of TLS", id="TLS 1.0, by its hello"),
        pytest.param(alert(40), "no TLS cipher in common", id="the server finds no cipher"),
        pytest.param(alert(71), "no TLS cipher in common", id="the server wants more security"),
        pytest.param(hello_of(0x0303, 0x0005), "no TLS cipher in common", id="RC4"),
        pytest.param(alert(112), "no TLS certificate for this host", id="the server has no such host"),
        pytest.param(alert(116), "asks its clients for a TLS certificate", id="the server wants a certificate"),
        pytest.param(alert(80), "could not agree on a TLS connection", id="the server has an error of its own"),
        pytest.param(alert(120), "could not agree on a TLS connection", id="the server speaks no HTTP/1.1"),
    ],
)
def test_nothing_in_common(behaviour: Behaviour, said: str) -> None:
    assert said in failure(None, behaviour).message


def test_no_cipher_in_common_with_a_real_server(authority: trustme.CA) -> None:
    tls = context(authority.issue_cert(HOST))
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    tls.set_ciphers("aNULL:@SECLEVEL=0")
    assert "no TLS cipher in common" in failure(tls).message


def test_a_server_that_asks_for_a_certificate_of_its_clients(authority: trustme.CA) -> None:
    tls = context(authority.issue_cert(HOST))
    tls.maximum_version = ssl.TLSVersion.TLSv1_2  # under TLS 1.3 the refusal comes after the client's handshake
    tls.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(tls)
    assert "asks for a certificate" in failure(tls).message


# ---- no TLS at all


@pytest.mark.parametrize(
    "greeting",
    [
        PICTURE,
        b"HTTP/1.1 400 The plain HTTP request was sent to HTTPS port\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"220 mail.example ESMTP\r\n",
        b"\x00" * 20,
        b"\xff" * 20,
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_server_that_speaks_no_tls(greeting: bytes, first: bool) -> None:
    def behave(connection: Connection) -> None:
        if not first:
            connection.client.recv(65_536)
        connection.send(greeting)
        connection.client.recv(65_536)

    assert "does not speak TLS" in failure(None, behave).message


def close(connection: Connection) -> None:
    connection.client.recv(65_536)


def reset(connection: Connection) -> None:
    connection.client.recv(1)
    connection.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def close_in_the_hello(connection: Connection) -> None:
    connection.client.recv(65_536)
    connection.send(b"\x16\x03\x03\x00\x7a\x02\x00")


@pytest.mark.parametrize("behaviour", [close, reset, close_in_the_hello])
def test_a_server_that_hangs_up(behaviour: Behaviour) -> None:
    assert "closed the connection during the TLS handshake" in failure(None, behaviour).message
