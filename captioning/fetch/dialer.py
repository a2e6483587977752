"""From a host name and a port to a connected socket that cannot be turned against its owner.

The address is judged where it is dialled, after the one look-up, which leaves nothing to DNS rebinding
or to another spelling of the same address. Each read then ends at one deadline, however slowly a server
drips, and after a number of bytes, whatever a server sends.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from captioning.deadline import Deadline
from captioning.errors import AddressNotAllowed, ImageFetchFailed, ImageFetchTimeout
from captioning.fetch.addresses import is_public_unicast
from captioning.fetch.handshake import handshake_failure
from captioning.fetch.resolver import Address, Resolver
from captioning.fetch.urls import Url
from captioning.hosts import is_host_among

# A host name may have any number of addresses, and a fetch is no port scan.
_MAX_ADDRESSES = 8

_T = TypeVar("_T")


class LimitedSocket(socket.socket):
    """A socket whose reads end with the deadline or its caller, and after a number of bytes in all.

    requests' own timeout starts anew with each read, so a byte now and then keeps a fetch alive for
    ever; and urllib3 reads a chunk whose size is -1 to its end, at once.
    """

    _deadline: Deadline
    _bytes_left: int

    def limit(self, deadline: Deadline, max_bytes: int) -> None:
        """Set what ``recv_into``, through which http.client reads everything, may take from now on."""
        self._deadline = deadline
        self._bytes_left = max_bytes
        self.settimeout(deadline.remaining())  # for what is sent

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        """Read as ``socket.recv_into`` does, within the limits."""
        received = _polled(self, self._deadline, partial(super().recv_into, *args, **kwargs))
        self._bytes_left -= received
        if self._bytes_left < 0:
            raise ImageFetchFailed("The image's server sent far more than an image.")
        return received


def _polled(connection: socket.socket, deadline: Deadline, step: Callable[[], _T]) -> _T:
    """Do what may wait for the other side, but not beyond the deadline, nor for a caller that has gone."""
    while True:
        connection.settimeout(deadline.poll_s())
        with suppress(TimeoutError):
            return step()


class _LimitedTlsSocket(LimitedSocket, ssl.SSLSocket):
    """The same over TLS, for ``SSLContext.sslsocket_class``."""


class Dialer:
    """Connect to hosts that a stranger chose, for many threads at once."""

    def __init__(
        self,
        *,
        connect_timeout_s: float,
        allowed_hosts: frozenset[str],
        allowed_ports: frozenset[int] | None,
        allow_private_addresses: bool,
    ) -> None:
        """Trust certifi's certificates and the system's, so that ``SSL_CERT_FILE`` works as elsewhere."""
        self._connect_timeout_s = connect_timeout_s
        self._allowed_hosts = allowed_hosts
        self._allowed_ports = allowed_ports
        self._allow_private_addresses = allow_private_addresses
        self._tls = ssl.create_default_context(cafile=DEFAULT_CA_BUNDLE_PATH)
        self._tls.load_default_certs()
        self._tls.set_alpn_protocols(["http/1.1"])
        self._tls.sslsocket_class = _LimitedTlsSocket
        self._resolver = Resolver()

    def dial(self, url: Url, deadline: Deadline, max_bytes: int) -> LimitedSocket:
        """Return a socket connected to a URL's host, over TLS checked against the host's name if it is https."""
        if self._allowed_hosts and not is_host_among(url.host, self._allowed_hosts):
            raise AddressNotAllowed(f"This service does not fetch images from the host {url.host}.")
        if self._allowed_ports is not None and url.port not in self._allowed_ports:
            raise AddressNotAllowed(f"This service does not fetch images from port {url.port}.")
        addresses = self._dialable(self._resolver.addresses(url.host, url.port, deadline))[:_MAX_ADDRESSES]
        dialled = self._connect(addresses, deadline)
        if url.scheme == "https":
            dialled = self._encrypt(dialled, url.host.rstrip("."), deadline)
        dialled.limit(deadline, max_bytes)
        return dialled

    def _dialable(self, found: list[Address]) -> list[Address]:
        """Keep the addresses that may be dialled.

        A host with public and private addresses is served from the public ones. Refusing it would add
        no safety, as nothing but a judged address is dialled, and would fail every IPv4 host behind
        DNS64 (RFC 6147), which puts a NAT64 address beside the real one.
        """
        if self._allow_private_addresses:
            return found
        public = [(family, where) for family, where in found if is_public_unicast(where[0])]
        if not public:
            raise AddressNotAllowed(detail=f"resolved to {', '.join(str(where[0]) for _, where in found)}")
        return public

    def _connect(self, addresses: list[Address], deadline: Deadline) -> LimitedSocket:
        """Return a connection to the first address that answers."""
        failure: OSError | None = None
        for position, (family, where) in enumerate(addresses):
            # A silent address must leave time for those after it.
            patience = min(self._connect_timeout_s, deadline.remaining() / (len(addresses) - position))
            try:
                return _connected(family, where, patience)
            except OSError as exc:
                failure = exc
        deadline.remaining()
        if isinstance(failure, TimeoutError):
            raise ImageFetchTimeout(
                f"The image's server accepted no connection within {patience:.3g} seconds."
            ) from failure
        raise ImageFetchFailed("The image's server could not be reached.", detail=str(failure)) from failure

    def _encrypt(self, plain: LimitedSocket, host: str, deadline: Deadline) -> LimitedSocket:
        # urllib3's own wrapping would write to the context that other threads are reading.
        with plain:
            encrypted = self._tls.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
        assert isinstance(encrypted, _LimitedTlsSocket)
        try:
            _polled(encrypted, deadline, encrypted.do_handshake)
        except BaseException as exc:
            encrypted.close()
            if isinstance(exc, OSError):
                raise handshake_failure(exc) from exc
            raise
        return encrypted


def _connected(family: socket.AddressFamily, where: tuple[Any, ...], patience_s: float) -> LimitedSocket:
    dialled = LimitedSocket(family, socket.SOCK_STREAM)
    try:
        dialled.settimeout(patience_s)
        dialled.connect(where)
    except BaseException:
        dialled.close()
        raise
    return dialled
