"""The types of settings that are more than a number or a word: each is read from the text of a variable.

pydantic names the variable and adds what these functions raise: an end of the sentence that says what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

from captioning.hosts import ascii_pattern

Value = TypeVar("Value")

_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:\d{1,5})?")  # RFC 6454, section 6.2
_HOST_NAME = re.compile(r"[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})*", re.IGNORECASE)  # RFC 1123, section 2.1
# A Bearer token (RFC 6750, section 2.1) has neither colon nor at sign; other visible ASCII may stand in one here.
_API_KEY = re.compile(r"(?:(?P<name>[A-Za-z0-9_.-]{1,64}):)?(?P<key>[!-+\--9;-?A-~]+)(?:@(?P<limit>[1-9]\d{0,3}))?")
_UNNAMED = "unnamed"


@dataclass(frozen=True)
class ApiKey:
    """A key that callers send, the name it has in the log, and how many pictures it may have under way at once."""

    key: str = field(repr=False)
    name: str = _UNNAMED
    limit: int | None = None


def _from_text(read: Callable[[str], Value]) -> BeforeValidator:
    """Return a validator that reads text, and leaves alone what Python code has given."""
    return BeforeValidator(lambda value: read(value) if isinstance(value, str) else value)


def _split(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ValueError("is set, but to nothing; set a value, or leave the variable out")
    return parts


def _read_host_patterns(text: str) -> frozenset[str]:
    if text.strip() == "*":
        return frozenset()
    parts = _split(text)
    try:
        return frozenset(map(ascii_pattern, parts))
    except ValueError:
        raise ValueError("must be host names or wildcards such as *.example.com, separated by commas, or *") from None


def _read_ports(text: str) -> frozenset[int] | None:
    if text.strip() == "*":
        return None
    ports = _split(text)
    if not all(port.isascii() and port.isdigit() and 0 < int(port) < 65536 for port in ports):
        raise ValueError("must be ports separated by commas, or *")
    return frozenset(map(int, ports))


def _read_origins(text: str) -> frozenset[str]:
    origins = frozenset(_split(text))
    if not all(origin == "*" or _ORIGIN.fullmatch(origin) for origin in origins):
        raise ValueError("must be origins such as https://example.com separated by commas, or *")
    return origins


def _read_api_keys(text: str) -> tuple[ApiKey, ...]:
    keys = tuple(map(_read_api_key, _split(text)))
    names = [key.name for key in keys if key.name != _UNNAMED]
    if len({key.key for key in keys}) < len(keys) or len(set(names)) < len(names):
        raise ValueError("holds a key or a name twice")
    return keys


def _read_api_key(text: str) -> ApiKey:
    match = _API_KEY.fullmatch(text)
    if match is None:
        raise ValueError("must be key, name:key or name:key@pictures, separated by commas, in visible ASCII")
    return ApiKey(match["key"], match["name"] or _UNNAMED, int(match["limit"]) if match["limit"] else None)


def _check_bind_host(text: str) -> str:
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        ip_address(host)
    except ValueError:
        if not _HOST_NAME.fullmatch(text):
            raise ValueError("must be an IP address or a host name, without a port") from None
    return host


def _check_cache_url(url: str) -> str:
    if not _is_cache_url(url):
        raise ValueError(
            "must be redis://[[user]:password@]host[:port][/database], the same with rediss://, or unix:///path"
        )
    return url


def _is_cache_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port  # raises for what is no port
    except ValueError:
        return False
    if any(character.isspace() for character in url) or parts.fragment:
        return False
    if parts.scheme == "unix":
        return not parts.hostname and len(parts.path) > 1 and bool(re.fullmatch(r"(db=\d{1,5})?", parts.query))
    in_network = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and port != 0
    # The redis client would take further options from the query, its timeouts among them.
    return in_network and not parts.query and bool(re.fullmatch(r"/?(\d{1,5})?", parts.path, re.ASCII))


HostPatterns = Annotated[frozenset[str], NoDecode, _from_text(_read_host_patterns)]
Ports = Annotated[frozenset[int] | None, NoDecode, _from_text(_read_ports)]
Origins = Annotated[frozenset[str], NoDecode, _from_text(_read_origins)]
ApiKeyList = Annotated[tuple[ApiKey, ...], NoDecode, _from_text(_read_api_keys)]
BindHost = Annotated[str, AfterValidator(_check_bind_host)]
CacheUrl = Annotated[str, AfterValidator(_check_cache_url)]
