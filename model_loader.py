"""The model as the service sees it: loading, ready or failed.

One thread per process downloads it, loads it, warms it up and then runs it: torch's memory grows with every new
thread that runs a model, and a model that was loaded before a fork hangs in the child. So nothing happens at
import; `Captioner.start` is called in the process that serves.
"""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError

from captioning.cache.key import files_sha256
from captioning.errors import ModelFailed, ModelLoading
from captioning.lifecycle import ModelStatus
from captioning.model.batcher import Batcher
from captioning.model.engine import Engine, warm_up
from captioning.model.hub import ModelLoadError, download, find_folder, first_line, missing_folder
from captioning.model.origin import Origin
from captioning.model.registry import engine_kind
from captioning.observe.logs import adopt_loggers
from captioning.settings import Settings, SettingsError, load_settings

log = logging.getLogger("captioning.model")

_LOAD_AGAIN_S = 30.0


class Captioner:
    """The model and its thread, which loads the engine and then runs the batcher."""

    def __init__(
        self,
        load: Callable[[], Engine],
        batcher: Batcher,
        *,
        identify: Callable[[], str] = lambda: "",
        on_failure: Callable[[bool], None] = lambda served: None,
    ) -> None:
        """Prepare; the model thread calls ``identify`` once it has loaded the model, then ``on_ready``.

        ``on_failure`` is called when there is no model (any more), with whether it had made captions before.
        """
        self._load = load
        self._identify = identify
        self._batcher = batcher
        self._on_failure = on_failure
        self.on_ready: Callable[[], object] = lambda: None
        self.others_serve: Callable[[], bool] = lambda: False
        """Whether other processes caption what comes, so that this one need not end when it finds no model."""
        self.status: ModelStatus = "loading"
        self._engine: Engine | None = None
        self.identity = ""
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the model thread, unless it runs already."""
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="model", daemon=True)
                self._thread.start()

    def engine(self) -> Engine:
        """Return the engine; start to load it where nobody has.

        Raises:
            ModelLoading: it is not ready yet.
            ModelFailed: it could not be loaded, or stopped working.
        """
        self.start()
        if self.status == "failed":
            raise ModelFailed
        if self._engine is None:
            raise ModelLoading(retry_after_s=5)
        return self._engine

    def _run(self) -> None:
        """Load, then caption; whatever ends this thread, the process is not left with a model that answers nobody."""
        started = time.monotonic()
        try:
            engine = self._load_in_the_end()
            self.identity = self._identify()
            self._engine = engine
            self.on_ready()
            self.status = "ready"
            log.info("The model is ready after %.1f s.", time.monotonic() - started)
            self._batcher.run(engine)
        except ModelLoadError as error:
            log.critical("%s", error)
            self._fail()
        except BaseException:  # a thread's edge: an error that left it would end it unseen
            log.critical("The model cannot go on.", exc_info=True)
            self._fail()

    def _load_in_the_end(self) -> Engine:
        """Load the engine, again and again while others serve: gunicorn ends all of them where one has no model.

        Raises:
            ModelLoadError: as `load_engine` does, once nobody else serves.
        """
        while True:
            try:
                with _no_garbage_made():
                    return self._load()
            except ModelLoadError as error:
                if not self.others_serve():
                    raise
                log.error("%s Other workers go on; this one tries again every %.0f s.", error, _LOAD_AGAIN_S)
            again_at = time.monotonic() + _LOAD_AGAIN_S
            while time.monotonic() < again_at and self.others_serve():
                time.sleep(1)

    def _fail(self) -> None:
        self.status = "failed"
        self._batcher.fail(ModelFailed())
        self._on_failure(self._batcher.has_captioned)


@contextmanager
def _no_garbage_made() -> Iterator[None]:
    """Look for garbage neither while the model loads nor, later on, among what is there by then.

    It is half a million objects with torch: a full collection holds every thread up, for up to a second.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def identify(settings: Settings) -> str:
    """Return what tells the loaded model's captions from those of others, wherever its files lie."""
    if not settings.cache_url:
        return settings.engine  # captions stay in this process, which has no other model
    weights = files_sha256(local_folder(settings), engine_kind(settings).weights)
    return f"{settings.engine}:{settings.torch_dtype}:{weights}"


def load_engine(settings: Settings) -> Engine:
    """Download the model if need be, load it and caption one picture with it.

    Raises:
        ModelLoadError: it cannot be had or is not BLIP.
    """
    kind = engine_kind(settings)
    folder = local_folder(settings)
    try:
        load = kind.loader()
        adopt_loggers(*kind.loggers)
        engine = load(folder, settings)
        warm_up(engine)
    except (OSError, ValueError, KeyError, RuntimeError, UnpicklingError) as error:
        # transformers, safetensors and torch raise these for broken, incomplete, foreign or hostile checkpoints.
        raise ModelLoadError(
            f"The model {settings.model_id} cannot be loaded: {first_line(error)}. Set MODEL_ID to {kind.model_id}."
        ) from error
    return engine


def _leave(served: bool) -> None:
    """End a process that has no model.

    One that had captioned is replaced: gunicorn drains it on SIGTERM and starts another. One that never did would be
    replaced for ever, so gunicorn stops as a whole: that is what it does on this exit code
    (gunicorn.arbiter.Arbiter.WORKER_BOOT_ERROR).
    """
    if served:
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        logging.shutdown()
        os._exit(3)


def make_captioner(
    settings: Settings,
    batcher: Batcher,
    load: Callable[[Settings], Engine] = load_engine,
    on_failure: Callable[[bool], None] = _leave,
) -> Captioner:
    """Make the captioner that the settings ask for; its model is loaded, by ``load``, when it is started."""
    return Captioner(lambda: load(settings), batcher, identify=lambda: identify(settings), on_failure=on_failure)


def local_folder(settings: Settings) -> Path:
    """Return the folder that holds the model's files, downloaded first if they are not there.

    Raises:
        ModelLoadError: there is no such folder and the hub does not give such a model.
    """
    if (folder := find_folder(settings.model_id)) is not None:
        return folder
    if not engine_kind(settings).from_hub:
        raise missing_folder(
            settings.model_id, f"ENGINE={settings.engine} serves nothing but a folder that `make export` wrote"
        )
    import_module("huggingface_hub.utils")  # it brings a log handler of its own
    adopt_loggers("huggingface_hub")
    return download(settings.model_id, settings.revision)


def keep(settings: Settings, out: Path) -> None:
    """Copy the model's files, downloaded if need be, into a folder of their own that says what they are.

    Raises:
        ModelLoadError: the model cannot be had.
    """
    folder = local_folder(settings)
    shutil.copytree(folder, out)  # the hub's cache links to files elsewhere: these come with it
    Origin.of(folder, named=settings.model_id).write(out)


if __name__ == "__main__":
    # For a build step: `python -m model_loader` downloads the model and says where it is, or keeps it in a folder.
    try:
        if sys.argv[1:]:
            keep(load_settings(), Path(sys.argv[1]))
        else:
            print(local_folder(load_settings()))
    except (ModelLoadError, SettingsError) as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"The model's files cannot be kept there: {error}.")
