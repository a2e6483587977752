"""Host names as DNS, TLS and the Host header write them."""

from __future__ import annotations

import re
from ipaddress import IPv6Address

# Underscores stand in no host name of RFC 1123, yet in many that are served.
_ASCII_NAME = re.compile(r"(?=.{1,254}\Z)([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?")


def ascii_host(name: str) -> str:
    """Return a host name in lower case, with international labels in their ASCII form, as browsers make it.

    That is UTS 46's non-transitional processing without STD3 rules (https://url.spec.whatwg.org/#idna). IDNA 2008
    alone would refuse names that exist, such as those of emoji. An IPv6 address in brackets comes back without them.

    Raises:
        ValueError: no host can have this name.
    """
    if name.startswith("[") and name.endswith("]") and "%" not in name:
        return str(IPv6Address(name[1:-1]))
    if not name.isascii():
        import idna  # its tables take memory that few URLs need

        mapped = idna.uts46_remap(name, std3_rules=False)  # an IDNAError is a ValueError
        name = ".".join(map(_ascii_label, mapped.split(".")))
    name = name.lower()
    if not _ASCII_NAME.fullmatch(name):
        raise ValueError("no host name")
    return name


def ascii_pattern(pattern: str) -> str:
    """Return a host name or a wildcard such as ``*.example.com`` as `is_host_among` wants it.

    Raises:
        ValueError: it is neither.
    """
    wildcard = "*." if pattern.startswith("*.") else ""
    return wildcard + ascii_host(pattern.removeprefix(wildcard)).rstrip(".")


def is_host_among(host: str, patterns: frozenset[str]) -> bool:
    """Tell whether an ASCII host is one of those named, or lies below one of the wildcards."""
    host = host.rstrip(".")
    above = host.split(".")[1:]
    return host in patterns or any(f"*.{'.'.join(above[n:])}" in patterns for n in range(len(above)))


def _ascii_label(label: str) -> str:
    if label.isascii():
        return label
    if label.startswith("xn--"):
        raise ValueError("a label that is ASCII and international at once")
    return "xn--" + label.encode("punycode").decode("ascii")
