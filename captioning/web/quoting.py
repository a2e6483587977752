"""What a caller sent, as the sentences of errors quote it: short, and printable whatever it holds."""

from __future__ import annotations

import json

_MAX_CHARACTERS = 40


def shown(value: object) -> str:
    """Return a value in a few words, as JSON where that is short."""
    match value:
        case str() if len(value) > _MAX_CHARACTERS:
            return f"a text of {len(value):,} characters"
        case list():
            return f"a list of length {len(value)}"
        case dict():
            return "an object"
        case int() if abs(value) >= 10**_MAX_CHARACTERS:
            return "a very large number"
    return json.dumps(value, ensure_ascii=not (isinstance(value, str) and value.isprintable()))


def quoted(name: str) -> str:
    """Return the name of a field in quotation marks, or its beginning if it is long."""
    return shown(name[:_MAX_CHARACTERS])
