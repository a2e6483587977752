"""Weights of 8 bits: with a scale for each output channel (encoder), or for each block of inputs (decoder)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tools.blip_sizes import Array

LARGEST_BLOCK = 128  # of 32 to 256: as quick as 256 and a fifth more exact; docs/performance.md has the figures


def quantize_channels(weight: Array) -> tuple[NDArray[np.int8], Array]:
    """Quantise ``[N, K]`` to int8 ``[K, N]`` with a scale for each output channel, ``[N]``."""
    largest = np.abs(weight).max(axis=1)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)  # an all-zero row would divide by zero
    return np.rint(weight / scale[:, None]).astype(np.int8).T, scale


def quantize_blocks(weight: Array) -> tuple[NDArray[np.uint8], Array]:
    """Quantise ``[N, K]`` to uint8 ``[N, K / block, block]`` around 128, with scales ``[N, K / block]``."""
    block = block_size(weight.shape[1])
    blocks = weight.reshape(len(weight), -1, block)
    largest = np.abs(blocks).max(axis=2)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return (np.rint(blocks / scale[..., None]) + 128).astype(np.uint8), scale


def block_size(width: int) -> int:
    """Return the largest power of two, up to 128, that divides the width."""
    return min(LARGEST_BLOCK, width & -width)
