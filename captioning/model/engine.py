"""The contract between the service and whatever runs a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from captioning.errors import InvalidParameter
from captioning.model.preprocessor import Preprocessor

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class GenerationOptions:
    """The options that shape a caption; only pictures with equal options share a batch."""

    prompt: str = ""
    max_new_tokens: int = 20
    num_beams: int = 1

    def check_room(self, *, prompt_tokens: int, positions: int) -> None:
        """Raise `InvalidParameter` when a model of so many positions cannot hold the prompt and the caption."""
        room = positions - prompt_tokens
        if self.max_new_tokens <= room:
            return
        if self.prompt:
            raise InvalidParameter(f"prompt is too long: with it, the model has room for {max(0, room)} new tokens.")
        raise InvalidParameter(f"maxNewTokens: this model has room for at most {room}.")


@dataclass(frozen=True)
class Generation:
    """The captions of a batch, with the seconds that its two parts took.

    ``tokens`` counts what the captions consist of, their prompts and their ends left out.
    """

    captions: list[str]
    encode_s: float
    decode_tokens_s: float
    tokens: int


class Engine(Protocol):
    """A loaded model. Only the model thread calls `caption`; all else serves many threads."""

    preprocessor: Preprocessor

    def check(self, options: GenerationOptions) -> None:
        """Raise `InvalidParameter` when the model cannot hold the prompt and the caption."""

    def caption(self, pixel_values: Pixels, options: GenerationOptions) -> Generation:
        """Caption float32 ``[B, 3, H, W]``: B captions."""


def warm_up(engine: Engine) -> None:
    """Caption one picture of no contents, so that the first request does not pay for what is set up lazily.

    Raises:
        Exception: the engine cannot caption.
    """
    pixel_values = np.zeros((1, 3, *engine.preprocessor.size), np.float32)  # [1, 3, H, W]
    engine.caption(pixel_values, GenerationOptions(max_new_tokens=2))
