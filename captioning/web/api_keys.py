"""Who asks: the API key that a request carries, and how much its holder may have under way."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from flask import g
from werkzeug.wrappers import Request

from captioning.errors import Unauthorized
from captioning.limits import Permits
from captioning.setting_types import ApiKey


class ApiKeys:
    """The keys of the settings; those with a limit have permits of their own beside the service's."""

    def __init__(self, keys: Sequence[ApiKey], permits: Permits) -> None:
        self._keys = keys
        self._permits = {key: Permits(key.limit, within=permits) if key.limit else permits for key in keys}
        self._shared = permits

    def check(self, request: Request) -> ApiKey | None:
        """Return the key in a request (RFC 6750, section 2.1); none where no key is needed.

        Raises:
            Unauthorized: a key is needed, and the request carries none of them.
        """
        if not self._keys:
            return None
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        given = token.strip().encode()
        # Each key is compared, in constant time: how long this takes tells nothing about any of them.
        matching = [known for known in self._keys if hmac.compare_digest(given, known.key.encode())]
        if scheme.lower() != "bearer" or not matching:
            raise Unauthorized
        return matching[0]

    def permits_of(self, key: ApiKey | None) -> Permits:
        """Return the permits that the holder of a key takes its own from."""
        return self._permits[key] if key else self._shared


def api_key_name() -> str | None:
    """Return the name of the key that the request came with, if it came with one that is known."""
    key: ApiKey | None = g.get("api_key")
    return key.name if key else None
