"""The service whose workers but one wait for a file before they load: `gunicorn tests.server.slow_sibling:app`.

LOADS_AT_ONCE is the file that the first worker makes, OTHERS_LOAD the one that the others wait for.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from app import create_app
from captioning.model.batcher import Batcher
from captioning.model.engine import Engine
from captioning.settings import Settings
from model_loader import Captioner, load_engine, make_captioner


def load(settings: Settings) -> Engine:
    try:
        Path(os.environ["LOADS_AT_ONCE"]).touch(exist_ok=False)
    except FileExistsError:
        while not Path(os.environ["OTHERS_LOAD"]).exists():
            time.sleep(0.05)
    return load_engine(settings)


def make_model(settings: Settings, batcher: Batcher) -> Captioner:
    return make_captioner(settings, batcher, load=load)


app = create_app(make_model=make_model)
