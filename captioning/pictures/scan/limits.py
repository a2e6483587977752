"""How far a scan looks, and how much it makes up."""

MAX_PARTS = 100_000
"""Chunks, segments, sub-blocks, strips. A PNG of 10 MB in IDAT chunks of 8 kB has 1,300."""
_ROOM = bytes(1024)
MISSING_SHARE = 10
"""At most a tenth of samples that are stored plainly is made up where they are missing."""


def without_room(data: bytes) -> bytes:
    """Return a file without the zeros of a download whose room was made in advance; no codec ends with that many."""
    return data.rstrip(b"\0") if data.endswith(_ROOM) else data
