"""The service with an engine that stops working for good: `gunicorn tests.server.broken_engine:app`.

CAPTIONS_BEFORE says after how many captions, the warm-up left out.
"""

from __future__ import annotations

import os

from app import create_app
from captioning.model.batcher import Batcher
from captioning.model.engine import Engine, Generation, GenerationOptions, Pixels
from captioning.settings import Settings
from model_loader import Captioner, load_engine, make_captioner


class Wearing:
    """An engine that captions so many times and then never again."""

    def __init__(self, engine: Engine, captions: int) -> None:
        self._engine = engine
        self._left = captions
        self.preprocessor = engine.preprocessor

    def check(self, options: GenerationOptions) -> None:
        self._engine.check(options)

    def caption(self, pixel_values: Pixels, options: GenerationOptions) -> Generation:
        if self._left == 0:
            raise RuntimeError("the engine is broken")
        self._left -= 1
        return self._engine.caption(pixel_values, options)


def make_model(settings: Settings, batcher: Batcher) -> Captioner:
    return make_captioner(
        settings, batcher, load=lambda settings: Wearing(load_engine(settings), int(os.environ["CAPTIONS_BEFORE"]))
    )


app = create_app(make_model=make_model)
