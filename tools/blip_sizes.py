"""What of a BLIP's configuration shapes its graphs, and its tensors by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Weights = Callable[[str], Array]  # tensor by its name in the checkpoint, float32


@dataclass(frozen=True)
class Sizes:
    """Hold what of BlipConfig shapes the graphs."""

    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    vision_epsilon: float
    text_width: int
    text_layers: int
    text_heads: int
    text_epsilon: float
    vocab_size: int

    @classmethod
    def of(cls, config: Any) -> Self:
        """Read them from a BlipConfig."""
        text, vision = config.text_config, config.vision_config
        return cls(
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            vision_width=vision.hidden_size,
            vision_layers=vision.num_hidden_layers,
            vision_heads=vision.num_attention_heads,
            vision_epsilon=vision.layer_norm_eps,
            text_width=text.hidden_size,
            text_layers=text.num_hidden_layers,
            text_heads=text.num_attention_heads,
            text_epsilon=text.layer_norm_eps,
            vocab_size=text.vocab_size,
        )

    @property
    def image_tokens(self) -> int:
        """Return S: the patches and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def head_width(self) -> int:
        """Return W of the decoder."""
        return self.text_width // self.text_heads
