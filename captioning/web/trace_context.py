"""The caller's trace, by which its logs and the service's can be joined (https://www.w3.org/TR/trace-context/).

The header goes no further. A service passes it on to the services that it asks; this one asks nobody but the picture's
server, a stranger, who is told nothing about callers.
"""

from __future__ import annotations

import re

# Section 3.2.2: version ff is invalid; a later version than 00 may add fields at the end.
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


def trace_fields(traceparent: str) -> dict[str, str]:
    """Return trace_id and parent_id of a ``traceparent`` header, or nothing where it is not a valid one."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return {}
    version, trace_id, parent_id, more = match.groups()
    valid = int(trace_id, 16) and int(parent_id, 16) and not (version == "00" and more)
    return {"trace_id": trace_id, "parent_id": parent_id} if valid else {}
