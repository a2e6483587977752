"""A picture's URL, taken apart once; what was given is what is sent.

Signatures of stores and caches are made over a URL's exact bytes, so no escape is decoded, added to or written
anew, and no segment of a path is resolved. Only what may not stand in a request line is escaped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, unquote

from captioning.errors import InvalidImageUrl
from captioning.hosts import ascii_host

MAX_URL_CHARS = 8_192

_DEFAULT_PORTS = {"http": 80, "https": 443}
_URL = re.compile(r"(https?)://([^/?#]*)([^?#]*)(\?[^#]*)?(?:#.*)?", re.IGNORECASE | re.DOTALL)
_AUTHORITY = re.compile(r"(\[.*\]|[^:]*)(?::(.*))?", re.DOTALL)
# What JavaScript's encodeURI makes of an international name.
_ESCAPED_NAME = re.compile(r"(?:%[89a-f][0-9a-f])+", re.IGNORECASE)
_PORT = re.compile(r"0*([0-9]{1,5})")
_SPACE_IN_HOST = re.compile(r"https?://[^/?#]* ", re.IGNORECASE)
_REFERENCE = re.compile(r"([^?#]*)(\?[^#]*)?", re.DOTALL)
_REFUSED = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# RFC 3986 knows none of these; browsers escape them, and send on what else it does not know, | and [ among it
# (https://url.spec.whatwg.org/#percent-encoded-bytes).
_ESCAPED_IN_PATHS = re.compile(r'[^!-~]|["<>`{}]')
_ESCAPED_IN_QUERIES = re.compile(r'[^!-~]|["<>]')


@dataclass(frozen=True)
class Url:
    """An http or https URL; ``host`` is ASCII, an IPv6 address without brackets, ``target`` what a request asks for."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """Return host and port as the Host header names them (RFC 9110, section 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def redirect(self, location: str) -> Url:
        """Return where a Location header leads, given as Latin-1 text, since it may hold any bytes.

        Resolve it as RFC 3986, section 5.2, with the leniency of browsers: spaces and raw bytes are escaped, and
        backslashes before the query are slashes. Dot segments count in a relative path only.

        Raises:
            InvalidImageUrl: it leads to no http or https URL.
        """
        reference = location.strip(" \t").encode("latin-1").decode("utf-8", "surrogateescape").replace(" ", "%20")
        found = _REFERENCE.match(reference)
        assert found
        path, query = found[1].replace("\\", "/"), found[2] or ""
        own_path = self.target.partition("?")[0]
        if scheme := re.match(r"([a-z][a-z0-9+.-]*):", path, re.IGNORECASE):
            name, after = scheme[1].lower(), path[scheme.end() :]
            if name in _DEFAULT_PORTS and (name != self.scheme or after.startswith("//")):
                return _parsed(f"{name}://{after.lstrip('/')}{query}")
            if name != self.scheme:
                return _parsed(path)
            path = after  # "http:next" leads to where "next" does
        if path.startswith("//"):
            return _parsed(f"{self.scheme}://{path.lstrip('/')}{query}")
        if path:
            return self._with_target(_merged(own_path, path) + query)
        return self._with_target(own_path + query) if query else self

    def _with_target(self, target: str) -> Url:
        return _parsed(f"{self.scheme}://{self.authority}{target}")


def parse_url(text: str) -> Url:
    """Take a URL apart; look nothing up.

    The rules are those of browsers, less what no public picture needs: credentials (RFC 3986, section 7.5),
    hosts with escapes of ASCII and scope ids. Unlike theirs, a path's dot segments stay.

    Raises:
        InvalidImageUrl: it is none that can be fetched.
    """
    if _SPACE_IN_HOST.match(text):
        raise InvalidImageUrl("The image's URL holds a space in its host's name; take it out.")
    if " " in text:
        raise InvalidImageUrl("The image's URL holds a space; write it as %20.")
    if _REFUSED.search(text):
        raise InvalidImageUrl("The image's URL holds a control character, or one half of an emoji.")
    return _parsed(text)


def _parsed(text: str) -> Url:
    if len(text) > MAX_URL_CHARS:
        raise InvalidImageUrl(f"The image's URL is longer than {MAX_URL_CHARS:,} characters.")
    found = _URL.fullmatch(text)
    if not found:
        raise InvalidImageUrl("The image's URL must start with http:// or https://.")
    scheme: Literal["http", "https"] = "https" if found[1].lower() == "https" else "http"
    host, port = _host_and_port(found[2], _DEFAULT_PORTS[scheme])
    path = _ESCAPED_IN_PATHS.sub(_escaped, found[3].replace("\\", "/")) or "/"
    query = _ESCAPED_IN_QUERIES.sub(_escaped, found[4] or "")
    return Url(scheme, host, port, path + query)


def _host_and_port(authority: str, default_port: int) -> tuple[str, int]:
    if "@" in authority:
        raise InvalidImageUrl("The image's URL must not carry a user name or a password.")
    found = _AUTHORITY.fullmatch(authority)
    name = found[1] if found else authority
    try:
        host = ascii_host(_ESCAPED_NAME.sub(lambda escapes: unquote(escapes[0], errors="strict"), name))
    except ValueError as exc:
        raise InvalidImageUrl("The image's URL names no valid host.", detail=str(exc)) from exc
    port = _PORT.fullmatch((found and found[2]) or str(default_port))
    if not port or int(port[1]) > 65_535:
        raise InvalidImageUrl("The image's URL names no valid port; that is a number up to 65535.")
    return host, int(port[1])


def _escaped(character: re.Match[str]) -> str:
    """Escape the UTF-8 bytes of a character, or the one byte of a Location that was no UTF-8."""
    return quote(character[0], safe="", errors="surrogateescape")


def _merged(base: str, reference: str) -> str:
    """Resolve a relative path's dot segments against a base's directory (RFC 3986, sections 5.2.3 and 5.2.4)."""
    kept = base.split("/")[:-1]
    segments = reference.split("/")
    if reference.startswith("/"):
        kept, segments = [""], segments[1:]
    for segment in segments:
        if segment == ".." and len(kept) > 1:
            kept.pop()
        elif segment not in (".", ".."):
            kept.append(segment)
    return "/".join([*kept, ""] if segments[-1] in (".", "..") else kept)
