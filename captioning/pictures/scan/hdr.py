"""Pictures of high dynamic range: read as if they were ordinary ones, they are grey and captioned wrongly."""

from __future__ import annotations

from captioning.errors import UnsupportedImage

_PQ, _HLG = 16, 18  # ITU-T H.273, table 3


def refuse_hdr(transfer: int) -> None:
    """Raise UnsupportedImage where a file's transfer characteristics are those of HDR."""
    if transfer in (_PQ, _HLG):
        raise UnsupportedImage("HDR images (PQ, HLG) are not supported; save this one as an ordinary (SDR) image.")
