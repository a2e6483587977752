"""From a host name and a port to a connected socket that cannot be turned against its owner.

The address is judged where it is dialled, after the one look-up, which leaves nothing to DNS rebinding
or to another spelling of the same address.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
from functools import partial
from typing import Any

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from captioning.deadline import Deadline
from captioning.errors import CaptioningError, ImageFetchFailed, ImageFetchTimeout, Overloaded
from captioning.fetch.destinations import Destinations
from captioning.fetch.handshake import handshake_failure
from captioning.fetch.limited_socket import LimitedSocket, LimitedTlsSocket, polled
from captioning.fetch.resolver import Address, Resolver
from captioning.fetch.urls import Url

# A host name may have any number of addresses, and a fetch is no port scan.
_MAX_ADDRESSES = 8


# No descriptors, or no memory for a socket: the picture's server has no part in it.
_OWN_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Dialer:
    """Connect to hosts that a stranger chose, for many threads at once."""

    def __init__(self, destinations: Destinations, *, connect_timeout_s: float) -> None:
        """Trust certifi's certificates and the system's, so that ``SSL_CERT_FILE`` works as elsewhere."""
        self._connect_timeout_s = connect_timeout_s
        self._destinations = destinations
        self._tls = ssl.create_default_context(cafile=DEFAULT_CA_BUNDLE_PATH)
        self._tls.load_default_certs()
        self._tls.set_alpn_protocols(["http/1.1"])
        self._tls.sslsocket_class = LimitedTlsSocket
        self._resolver = Resolver()

    def dial(self, url: Url, deadline: Deadline, max_bytes: int) -> LimitedSocket:
        """Return a socket connected to a URL's host, over TLS checked against the host's name if it is https."""
        self._destinations.check(url)
        found = self._resolver.addresses(url.host, url.port, deadline)
        addresses = self._destinations.dialable(found)[:_MAX_ADDRESSES]
        dialled = self._connect(addresses, deadline)
        if url.scheme == "https":
            dialled = self._encrypt(dialled, url.host.rstrip("."), deadline)
        try:
            dialled.limit(deadline, max_bytes)
        except CaptioningError:  # the deadline came at this very moment
            dialled.close()
            raise
        return dialled

    def _connect(self, addresses: list[Address], deadline: Deadline) -> LimitedSocket:
        """Return a connection to the first address that answers."""
        failure: OSError | ImageFetchTimeout | None = None
        for position, (family, where) in enumerate(addresses):
            # A silent address must leave time for those after it.
            patience = min(self._connect_timeout_s, deadline.remaining() / (len(addresses) - position))
            sentence = f"The image's server accepted no connection within {patience:.3g} seconds."
            try:
                return _connected(family, where, deadline.within(patience, partial(ImageFetchTimeout, sentence)))
            except (OSError, ImageFetchTimeout) as exc:
                failure = exc
        deadline.remaining()
        if isinstance(failure, ImageFetchTimeout):
            raise failure
        if failure is not None and failure.errno in _OWN_SHORTAGES:
            raise Overloaded(detail=str(failure), retry_after_s=1) from failure
        raise ImageFetchFailed("The image's server could not be reached.", detail=str(failure)) from failure

    def _encrypt(self, plain: LimitedSocket, host: str, deadline: Deadline) -> LimitedSocket:
        # urllib3's own wrapping would write to the context that other threads are reading.
        with plain:
            encrypted = self._tls.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
        assert isinstance(encrypted, LimitedTlsSocket)
        try:
            polled(encrypted, deadline, encrypted.do_handshake)
        except BaseException as exc:
            encrypted.close()
            if isinstance(exc, OSError):
                raise handshake_failure(exc) from exc
            raise
        return encrypted


def _connected(family: socket.AddressFamily, where: tuple[Any, ...], deadline: Deadline) -> LimitedSocket:
    dialled = LimitedSocket(family, socket.SOCK_STREAM)
    try:
        dialled.setblocking(False)
        error = dialled.connect_ex(where)
        answered = select.poll()
        answered.register(dialled, select.POLLOUT)
        while error == errno.EINPROGRESS:
            if answered.poll(1_000 * deadline.poll_s()):
                error = dialled.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
    except BaseException:
        dialled.close()
        raise
    return dialled
