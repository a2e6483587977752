"""Which addresses are public: the edges of every range, every way to hide IPv4 in IPv6, every cloud."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.fetch.addresses import is_public_unicast

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.215.14",
    "216.24.57.1",
    "2606:4700:4700::1111",
    "2001:4860:4860::8888",
    "2a00:1450:4001:80b::200e",
    "2400:cb00:2048:1::c629:d7a2",
    "2c0f:fb50:4003:802::200e",
]

# From IANA's IPv4 and IPv6 special-purpose registries, by their names there.
SPECIAL_NETWORKS = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "240.0.0.0/4",
    "224.0.0.0/4",
    "::/128",
    "::1/128",
    "::/96",
    "::ffff:0:0/96",
    "::ffff:0:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "100:0:0:1::/64",
    "2001::/23",
    "2001::/32",
    "2001:1::1/128",
    "2001:2::/48",
    "2001:3::/32",
    "2001:4:112::/48",
    "2001:10::/28",
    "2001:20::/28",
    "2001:30::/28",
    "2001:db8::/32",
    "2002::/16",
    "2620:4f:8000::/48",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
]

# A range whose neighbour on that side is special too has no public edge there.
PUBLIC_NEIGHBOURS = [
    "1.0.0.0",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "168.63.129.15",
    "168.63.129.17",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "191.255.255.255",
    "192.0.1.0",
    "192.0.3.0",
    "192.31.195.255",
    "192.31.197.0",
    "192.52.192.255",
    "192.52.194.0",
    "192.88.98.255",
    "192.88.100.0",
    "192.167.255.255",
    "192.169.0.0",
    "192.175.47.255",
    "192.175.49.0",
    "198.17.255.255",
    "198.20.0.0",
    "198.51.99.255",
    "198.51.101.0",
    "203.0.112.255",
    "203.0.114.0",
    "223.255.255.255",
    "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "2001:200::",
    "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
    "2001:db9::",
    "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "2003::",
    "2620:4f:7fff:ffff:ffff:ffff:ffff:ffff",
    "2620:4f:8001::",
]

METADATA = [
    "169.254.169.254",  # AWS, Google, Azure, DigitalOcean, Oracle, IBM, Hetzner, OpenStack
    "169.254.170.2",  # AWS, containers
    "169.254.0.23",  # Tencent
    "169.254.42.42",  # Scaleway
    "168.63.129.16",  # Azure's wire server
    "100.100.100.200",  # Alibaba
    "192.0.0.192",  # Oracle
    "fd00:ec2::254",  # AWS
    "fd00:ec2::23",  # AWS, containers
    "fd20:ce::254",  # Google
    "fd00:42::42",  # Scaleway
    "fd00:a9fe:a9fe::1",  # Linode
    "fe80::a9fe:a9fe",  # OpenStack
]

any_ipv4 = st.integers(0, 2**32 - 1).map(IPv4Address)
any_ipv6 = st.integers(0, 2**128 - 1).map(IPv6Address) | st.integers(0x2000 << 112, (0x4000 << 112) - 1).map(
    IPv6Address
)


@pytest.mark.parametrize("address", PUBLIC + PUBLIC_NEIGHBOURS)
def test_a_public_address_is_public(address: str) -> None:
    assert is_public_unicast(address)
    assert is_public_unicast(ip_address(address))


@pytest.mark.parametrize("network", SPECIAL_NETWORKS)
def test_a_special_range_is_refused_from_end_to_end(network: str) -> None:
    range_ = IPv6Network(network) if ":" in network else IPv4Network(network)
    for address in (range_[0], range_[range_.num_addresses // 2], range_[-1]):
        assert not is_public_unicast(address), address
        assert not is_public_unicast(str(address)), address


@pytest.mark.parametrize("address", METADATA)
def test_the_metadata_of_clouds_is_refused(address: str) -> None:
    assert not is_public_unicast(address)


@given(any_ipv4)
def test_ipv4_inside_ipv6_is_refused_even_when_the_ipv4_is_public(inner: IPv4Address) -> None:
    embedded = int(inner)
    hidden = {
        "mapped": 0xFFFF << 32 | embedded,
        "compatible": embedded,
        "translated": 0xFFFF << 48 | embedded,
        "NAT64": 0x64FF9B << 96 | embedded,
        "local NAT64": 0x64FF9B0001 << 80 | embedded,
        "6to4": 0x2002 << 112 | embedded << 80 | 1,
        "Teredo": 0x20010000 << 96 | (embedded ^ 0xFFFF_FFFF),
        "Teredo server": 0x20010000 << 96 | embedded << 64,
        "ISATAP": 0x2A00_1450_4001_080B << 64 | 0x5EFE << 32 | embedded,
        "ISATAP, universal": 0x2A00_1450_4001_080B << 64 | 0x0200_5EFE << 32 | embedded,
        "ISATAP, link-local": 0xFE80 << 112 | 0x5EFE << 32 | embedded,
    }
    for kind, number in hidden.items():
        assert not is_public_unicast(IPv6Address(number)), kind


@pytest.mark.parametrize(
    "text",
    ["", "localhost", "example.com", "127.1", "2130706433", "0177.0.0.1", "0x7f.1", "010.0.0.1", "1.1.1.1.",
     "\uff11.1.1.1", "[2606:4700::1]", "2606:4700:4700::1111%eth0", "fe80::1%1", "1.1.1.1/32", "1.1.1.1:80"],
)  # fmt: skip
def test_a_text_that_is_not_exactly_an_address_is_refused(text: str) -> None:
    assert not is_public_unicast(text)


@given(any_ipv4 | any_ipv6)
def test_nothing_is_public_that_python_knows_to_be_special(address: IPv4Address | IPv6Address) -> None:
    if is_public_unicast(address):
        assert address.is_global
        assert not any((address.is_multicast, address.is_reserved, address.is_link_local))


@given(any_ipv4)
def test_most_of_ipv4_stays_reachable(address: IPv4Address) -> None:
    """A table that refuses everything would pass the other tests."""
    if address.is_global and not address.is_multicast and not is_public_unicast(address):
        extra = ("168.63.129.16/32", "192.0.0.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24",
                 "192.175.48.0/24")  # fmt: skip
        assert any(address in IPv4Network(network) for network in extra)
