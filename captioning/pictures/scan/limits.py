"""How far a scan looks, and how much it makes up."""

MAX_PARTS = 100_000
"""Chunks, segments, sub-blocks, strips. A PNG of 10 MB in IDAT chunks of 8 kB has 1,300."""
MISSING_SHARE = 10
"""At most a tenth of samples that are stored plainly is made up where they are missing."""
