"""The contract between the service and whatever runs a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from captioning.errors import InvalidParameter
from captioning.model.preprocessor import Preprocessor
from captioning.settings import Settings

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class GenerationOptions:
    """The options that shape a caption; only pictures with equal options share a batch."""

    prompt: str = ""
    max_new_tokens: int = 20
    num_beams: int = 1
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0

    @classmethod
    def from_settings(cls, settings: Settings) -> GenerationOptions:
        """Return the options that hold where a request says nothing."""
        return cls(
            max_new_tokens=settings.max_new_tokens,
            num_beams=settings.num_beams,
            no_repeat_ngram_size=settings.no_repeat_ngram_size,
            repetition_penalty=settings.repetition_penalty,
        )

    def check_room(self, *, prompt_tokens: int, positions: int) -> None:
        """Raise `InvalidParameter` when a model of so many positions cannot hold the prompt and the caption."""
        room = positions - prompt_tokens
        if self.max_new_tokens <= room:
            return
        if self.prompt:
            raise InvalidParameter(f"prompt is too long: with it, the model has room for {max(0, room)} new tokens.")
        raise InvalidParameter(f"maxNewTokens: this model has room for at most {room}.")


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption, its prompt in front, and how sure the model was of it.

    ``tokens`` counts what it consists of, its prompt and its end left out. ``confidence`` is the geometric mean of the
    probabilities that the model gave to these and to the end, whatever was done against repetition. ``score`` is what
    the search ranked it by: the mean logarithm of those probabilities, after what was done against repetition.
    """

    text: str
    confidence: float
    score: float
    tokens: int
    finish_reason: Literal["end", "length"]

    @classmethod
    def of(cls, text: str, log_probabilities: Sequence[float], *, ended: bool, score: float | None = None) -> Caption:
        """Sum up what was generated; the last of the log-probabilities is the end's, if it ended."""
        mean = math.fsum(log_probabilities) / len(log_probabilities)
        return cls(
            text,
            confidence=math.exp(mean),
            score=mean if score is None else score,
            tokens=len(log_probabilities) - ended,
            finish_reason="end" if ended else "length",
        )


Candidates = tuple[Caption, ...]
"""The captions that the search found for one picture, the best first: as many as there are beams."""


@dataclass(frozen=True)
class Generation:
    """What a batch of pictures gave, with the seconds that its two parts took."""

    candidates: list[Candidates]
    encode_s: float
    decode_tokens_s: float

    @property
    def tokens(self) -> int:
        """Return how many tokens the best captions consist of."""
        return sum(best.tokens for best, *_ in self.candidates)


class Engine(Protocol):
    """A loaded model. Only the model thread calls `caption`; all else serves many threads."""

    preprocessor: Preprocessor

    def check(self, options: GenerationOptions) -> None:
        """Raise `InvalidParameter` when the model cannot hold the prompt and the caption."""

    def caption(self, pixel_values: Pixels, options: GenerationOptions) -> Generation:
        """Caption float32 ``[B, 3, H, W]``: candidates for each of B pictures."""


def warm_up(engine: Engine) -> None:
    """Caption one picture of no contents, so that the first request does not pay for what is set up lazily.

    Raises:
        Exception: the engine cannot caption.
    """
    pixel_values = np.zeros((1, 3, *engine.preprocessor.size), np.float32)  # [1, 3, H, W]
    engine.caption(pixel_values, GenerationOptions(max_new_tokens=2))
