"""Tell public unicast addresses from all others.

The tables follow IANA's registries of 2025: IPv4 and IPv6 Special-Purpose Address Space (RFC 6890),
IPv6 Global Unicast Assignments, and the metadata addresses that the clouds document. They are spelt
out because ``ipaddress.is_global`` depends on the Python it comes with: 3.11.7 lets ``2002::/16``,
``64:ff9b::/96``, ``::7f00:1`` and ``fec0::/10`` pass.

What no table can know: a NAT64 or 6rd prefix that a network operator cut from its own space
(RFC 6052, section 2.2; RFC 5969) looks like any other public IPv6 address.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_REFUSED_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network (RFC 791)
        "10.0.0.0/8",  # private (RFC 1918)
        "100.64.0.0/10",  # carrier-grade NAT (RFC 6598); Alibaba's metadata, 100.100.100.200
        "127.0.0.0/8",  # loopback (RFC 1122)
        "168.63.129.16/32",  # Azure's metadata and DNS, inside an ordinary public range
        "169.254.0.0/16",  # link-local (RFC 3927); the metadata of most clouds, 169.254.169.254
        "172.16.0.0/12",  # private (RFC 1918)
        "192.0.0.0/24",  # IETF protocols (RFC 6890); Oracle's metadata, 192.0.0.192
        "192.0.2.0/24",  # documentation (RFC 5737)
        "192.31.196.0/24",  # AS112 sinks, often a node of one's own network (RFC 7535)
        "192.52.193.0/24",  # multicast relays (RFC 7450)
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "192.168.0.0/16",  # private (RFC 1918)
        "192.175.48.0/24",  # AS112 sinks (RFC 7534)
        "198.18.0.0/15",  # benchmarks (RFC 2544)
        "198.51.100.0/24",  # documentation (RFC 5737)
        "203.0.113.0/24",  # documentation (RFC 5737)
        "224.0.0.0/4",  # multicast (RFC 5771)
        "240.0.0.0/4",  # reserved, and limited broadcast (RFC 1112, RFC 919)
    )
)

# Everything outside falls away at once: mapped, compatible and translated IPv4, NAT64, unique local
# (AWS's fd00:ec2::254 too), link-local, site-local, multicast, discard-only, segment routing.
_GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")

_REFUSED_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # IETF protocols (RFC 2928): Teredo, benchmarks, AMT, ORCHID, drone tags
        "2001:db8::/32",  # documentation (RFC 3849)
        "2002::/16",  # 6to4, an IPv4 address inside (RFC 3056)
        "2620:4f:8000::/48",  # AS112 sinks (RFC 7534)
        "3ffe::/16",  # 6bone, given back (RFC 3701)
        "3fff::/20",  # documentation (RFC 9637)
    )
)

# The upper half of an interface id that ends in an IPv4 address (ISATAP: RFC 5214, section 6.1).
_ISATAP_MARKS = (0x0000_5EFE, 0x0200_5EFE)


def is_public_unicast(address: str | IPv4Address | IPv6Address) -> bool:
    """Return whether an address is one that anybody on the internet may be asked to dial.

    Judge the address that a socket is about to connect to, as ``getaddrinfo`` spells it, never a
    host name or the text of a URL. A text that is no address, and any address with a scope id
    (RFC 4007, section 11), is not public.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv4Address):
        return not any(parsed in network for network in _REFUSED_V4)
    return (
        parsed.scope_id is None
        and parsed in _GLOBAL_UNICAST_V6
        and not any(parsed in network for network in _REFUSED_V6)
        and (int(parsed) >> 32) & 0xFFFF_FFFF not in _ISATAP_MARKS
    )
