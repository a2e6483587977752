"""The model as the service sees it: loading, ready, failed or draining.

One thread per process downloads it, loads it, warms it up and then runs it: torch's memory grows with every new
thread that runs a model, and a model that was loaded before a fork hangs in the child. So nothing happens at
import; `Captioner.start` is called in the process that serves.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
from PIL import Image

from captioning.cache.key import files_sha256
from captioning.deadline import Deadline
from captioning.errors import ModelFailed, ModelLoading
from captioning.model.batcher import Batcher, Captioned
from captioning.model.engine import Engine, Generation, GenerationOptions, Pixels
from captioning.model.hub import ModelLoadError, download, find_folder, missing_folder
from captioning.model.int8.manifest import Manifest
from captioning.observe.logs import adopt_loggers
from captioning.pipeline import Status
from captioning.settings import Settings, SettingsError, load_settings

log = logging.getLogger("captioning.model")

# What MODEL_ID may be, by the engine.
_WANTED = {
    "torch": "a BLIP captioning model on the hub or to a folder that holds one",
    "int8": "a folder that `make export` wrote from a BLIP captioning model",
}


class Captioner:
    """Own the model thread: load the engine there, then run the batcher in it."""

    def __init__(
        self,
        load: Callable[[], Engine],
        batcher: Batcher,
        *,
        identify: Callable[[], str] = lambda: "",
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; the model thread calls ``identify`` once it has loaded the model, or ``on_failure`` if it cannot."""
        self._load = load
        self._identify = identify
        self._batcher = batcher
        self._on_failure = on_failure
        self._status: Status = "loading"
        self._engine: Engine | None = None
        self.identity = ""
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def status(self) -> Status:
        """Tell where the model is in its life."""
        return self._status

    def start(self) -> None:
        """Start the model thread, unless it runs already."""
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="model", daemon=True)
                self._thread.start()

    def engine(self) -> Engine:
        """Return the engine.

        Raises:
            ModelLoading: it is not ready yet.
            ModelFailed: it could not be loaded.
        """
        if self._engine is not None:
            return self._engine
        raise ModelFailed if self._status == "failed" else ModelLoading(retry_after_s=5)

    def submit(self, pixel_values: Pixels, options: GenerationOptions, deadline: Deadline) -> Future[Captioned]:
        """Queue one preprocessed picture; see `Batcher.submit`."""
        return self._batcher.submit(pixel_values, options, deadline)

    @property
    def waiting(self) -> int:
        """Return how many pictures wait for the model."""
        return self._batcher.waiting

    def expected_wait_s(self) -> float:
        """Return the seconds until a picture that came now would be captioned."""
        return self._batcher.expected_wait_s()

    def check_wait(self, deadline: Deadline) -> None:
        """Refuse what would not be captioned by its deadline; see `Batcher.check_wait`."""
        self._batcher.check_wait(deadline)

    def drain(self) -> None:
        """Say that this process takes no new requests; those that were let in are still captioned."""
        self._status = "draining"

    def _run(self) -> None:
        started = time.monotonic()
        try:
            engine = self._load()
            self.identity = self._identify()
        except ModelLoadError as error:
            log.critical("%s", error)
            self._fail()
            return
        except Exception:
            log.exception("The model could not be loaded because of a bug.")
            self._fail()
            return
        self._engine = engine
        if self._status == "loading":
            self._status = "ready"
            log.info("The model is ready after %.1f s.", time.monotonic() - started)
        self._batcher.run(engine)

    def _fail(self) -> None:
        self._status = "failed"
        self._on_failure()


def make_captioner(settings: Settings, on_batch: Callable[[Generation], None] = lambda batch: None) -> Captioner:
    """Make the captioner that the settings ask for; its model is loaded when it is started."""
    return Captioner(
        lambda: load_engine(settings),
        Batcher(
            max_batch_size=settings.batch_max_size, max_waiting=settings.max_concurrent_requests, on_batch=on_batch
        ),
        identify=lambda: identify(settings),
        on_failure=_end_the_server,
    )


def identify(settings: Settings) -> str:
    """Return what tells the loaded model's captions from those of others, wherever its files lie."""
    if not settings.cache_url:
        return settings.engine  # captions stay in this process, which has no other model
    return f"{settings.engine}:{files_sha256(local_folder(settings))}"


def name_and_revision(settings: Settings) -> tuple[str, str | None]:
    """Return what the model is called; an int8 export is called what it was made from."""
    if settings.engine == "int8":
        with suppress(ValueError, OSError):  # loading it says what is wrong
            manifest = Manifest.read(Path(settings.model_id))
            return manifest.source, manifest.revision
    return settings.model_id, settings.revision


def load_engine(settings: Settings) -> Engine:
    """Download the model if need be, load it and caption one picture with it.

    Raises:
        ModelLoadError: it cannot be had or is not BLIP.
    """
    try:
        engine = _load_int8(settings) if settings.engine == "int8" else _load_torch(settings)
        warm_up(engine)
    except (OSError, ValueError, KeyError, RuntimeError, UnpicklingError) as error:
        # transformers, safetensors and torch raise these for broken, incomplete, foreign or hostile checkpoints.
        raise ModelLoadError(
            f"The model {settings.model_id} cannot be loaded: {_first_line(error)}. "
            f"Set MODEL_ID to {_WANTED[settings.engine]}."
        ) from error
    return engine


def _load_torch(settings: Settings) -> Engine:
    # transformers would otherwise ask the hub, in a thread of its own, for a safetensors copy of pickled weights.
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    # By default torch's threads spin while they wait for each other. On a CPU that others use too, the one that is
    # waited for then gets no time: 2.5 s for a caption of 0.1 s. libgomp reads this when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    folder = local_folder(settings)
    from transformers.utils import logging as transformers_logging

    from captioning.model.torch_engine import TorchEngine

    adopt_loggers("transformers", "huggingface_hub")
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    return TorchEngine(folder, num_threads=settings.model_threads)


def _load_int8(settings: Settings) -> Engine:
    from captioning.model.int8.engine import Int8Engine

    if (folder := find_folder(settings.model_id)) is None:
        raise missing_folder(settings.model_id, "ENGINE=int8 serves nothing but a folder that `make export` wrote")
    return Int8Engine(folder, num_threads=settings.model_threads)


def warm_up(engine: Engine) -> None:
    """Caption one grey picture, so that the first request does not pay for what is set up lazily."""
    pixel_values: Pixels = engine.preprocessor(Image.new("RGB", (64, 64), "gray"))  # [3, H, W]
    engine.caption(np.stack([pixel_values]), GenerationOptions(max_new_tokens=2))


def local_folder(settings: Settings) -> Path:
    """Return the folder that holds the model's files, downloaded first if they are not there.

    Raises:
        ModelLoadError: there is no such folder and the hub does not give such a model.
    """
    if (folder := find_folder(settings.model_id)) is not None:
        return folder
    import_module("huggingface_hub.utils")  # it brings a log handler of its own
    adopt_loggers("huggingface_hub")
    return download(settings.model_id, settings.revision)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def _end_the_server() -> None:
    # Gunicorn stops as a whole, with this exit code, when a worker leaves with it; any other code, and it would
    # start the worker again and again (gunicorn.arbiter.Arbiter.WORKER_BOOT_ERROR).
    logging.shutdown()
    os._exit(3)


if __name__ == "__main__":
    # `python -m model_loader` downloads the model and says where it is: for a build step.
    try:
        print(local_folder(load_settings()))
    except (ModelLoadError, SettingsError) as error:
        sys.exit(str(error))
