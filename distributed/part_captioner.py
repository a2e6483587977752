"""What captions the parts of a table: an actor of Ray Data, with one model and the service's own stages."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from captioning.cli.offline import OfflineStages, threads_for
from captioning.errors import CaptioningError, MissingImage, Unavailable
from captioning.model.batcher import Batcher
from captioning.model.engine import Candidates, GenerationOptions
from captioning.model.hub import ModelLoadError
from captioning.model.registry import name_and_revision
from captioning.observe.logs import configure_logging
from captioning.pictures.decoders import Decoders
from captioning.settings import Settings
from distributed.parts import RESULT_COLUMNS, Folder
from model_loader import Captioner, load_engine

AT_ONCE = 3
"""Parts that one actor has under way: while a slow image host holds up the end of one, the model captions the next."""

_RESULTS = pa.schema([(name, pa.string()) for name in RESULT_COLUMNS])


class PartCaptioner:
    """Captions parts, several at a time, and writes each as a file."""

    def __init__(self, settings: Settings, output: Folder, column: str, base: str) -> None:
        """Load the model; relative paths of pictures begin at ``base``.

        Raises `ModelLoadError` where there is no model.
        """
        configure_logging(settings)
        self._output, self._column, self._base = output, column, base
        name, revision = name_and_revision(settings)
        self._made_with = {"model": name, "revision": revision, "engine": settings.engine}
        decoders = Decoders.from_settings(settings)
        decoders.start()
        try:
            engine = load_engine(settings)
        except ModelLoadError as error:
            raise ModelLoadError(error.message) from None  # of a chain, Ray tells the driver the first cause
        batcher = Batcher(max_batch_size=settings.batch_max_size)
        model = Captioner(lambda: engine, batcher)
        model.start()
        while model.status == "loading":
            time.sleep(0.01)
        options = GenerationOptions.from_settings(settings)
        self._stages = OfflineStages(model, batcher, decoders, settings, options)
        self._threads = ThreadPoolExecutor(threads_for(settings), thread_name_prefix="picture")

    def __call__(self, part: dict[str, Any]) -> dict[str, Any]:
        """Caption and write one part: ``name`` and, as Arrow's stream format, ``rows``; return what it counted.

        Raises `Unavailable` where the model stopped working: what is no picture's fault is not written as one's.
        """
        rows = pa.ipc.open_stream(part["rows"]).read_all()
        results = list(self._threads.map(self._caption, rows[self._column].to_pylist()))
        if broken := next((result for result in results if isinstance(result, Unavailable)), None):
            raise broken
        added = pa.Table.from_pylist([self._made_with | _cells(result) for result in results], _RESULTS)
        for name in RESULT_COLUMNS:
            rows = rows.append_column(name, added[name])
        self._output.write_table(part["name"], rows)
        return {"pictures": len(results), "failed": added["caption"].null_count}

    def _caption(self, picture: str | bytes | None) -> Candidates | CaptioningError:
        if not picture:
            return MissingImage("This row names no picture.")
        if isinstance(picture, str) and "://" not in picture:
            picture = os.path.join(self._base, picture)
        return self._stages.caption(picture)


def _cells(result: Candidates | CaptioningError) -> dict[str, str | None]:
    if isinstance(result, CaptioningError):
        return {"error": result.message, "code": result.code}
    return {"caption": result[0].text}
