"""An engine with a bug."""

from __future__ import annotations

from captioning.model.engine import Generation, GenerationOptions, Pixels
from captioning.model.preprocessor import Preprocessor
from tests.candidates import made_up


class BreakingEngine:
    """An engine that raises ``words`` for each picture, and captions the empty one that asks whether it still can."""

    preprocessor = Preprocessor((112, 112), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1 / 255)

    def __init__(self, words: str) -> None:
        self._words = words

    def check(self, options: GenerationOptions) -> None:
        pass

    def caption(self, pixel_values: Pixels, options: GenerationOptions) -> Generation:
        if not pixel_values.any():
            return Generation([made_up("")], 0.0, 0.0)
        raise ZeroDivisionError(self._words)
