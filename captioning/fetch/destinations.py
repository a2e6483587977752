"""Where pictures may be fetched from: which hosts, ports and addresses."""

from __future__ import annotations

from dataclasses import dataclass

from captioning.errors import AddressNotAllowed
from captioning.fetch.addresses import is_public_unicast
from captioning.fetch.resolver import Address
from captioning.fetch.urls import Url
from captioning.hosts import is_host_among


@dataclass(frozen=True)
class Destinations:
    """What the settings allow; no hosts means any, and no set of ports does."""

    allowed_hosts: frozenset[str]
    allowed_ports: frozenset[int] | None
    allow_private_addresses: bool

    def check(self, url: Url) -> None:
        """Do nothing for a URL whose host and port are allowed.

        Raises:
            AddressNotAllowed: they are not.
        """
        if self.allowed_hosts and not is_host_among(url.host, self.allowed_hosts):
            raise AddressNotAllowed(f"This service does not fetch images from the host {url.host}.")
        if self.allowed_ports is not None and url.port not in self.allowed_ports:
            raise AddressNotAllowed(f"This service does not fetch images from port {url.port}.")

    def dialable(self, found: list[Address]) -> list[Address]:
        """Return those of a host's addresses that may be dialled.

        A host with public and private addresses is served from the public ones. Refusing it would add
        no safety, as nothing but a judged address is dialled, and would fail every IPv4 host behind
        DNS64 (RFC 6147), which puts a NAT64 address beside the real one.

        Raises:
            AddressNotAllowed: none of them may.
        """
        if self.allow_private_addresses:
            return found
        public = [(family, where) for family, where in found if is_public_unicast(where[0])]
        if not public:
            raise AddressNotAllowed(detail=f"resolved to {', '.join(str(where[0]) for _, where in found)}")
        return public
