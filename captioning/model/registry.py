"""The engines that there are, one row each."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from captioning.model.int8.manifest import Fidelity, Manifest
from captioning.model.origin import Origin
from captioning.settings import MIB, Settings, SettingsError

if TYPE_CHECKING:  # gunicorn's master reads this module, and needs neither numpy nor Pillow
    from captioning.model.engine import Engine


@dataclass(frozen=True)
class EngineKind:
    """What the service must know of an engine before it is imported: others shall not pay for its libraries."""

    module: str
    """It holds ``load(folder, settings) -> Engine``; that raises ValueError or OSError for a model that is not BLIP."""
    model_id: str
    """What MODEL_ID may be, as the end of a sentence."""
    from_hub: bool
    """Whether MODEL_ID may be the name of a model on the hub."""
    weights: tuple[str, ...]
    """Endings of the files that hold its weights: captions depend on them."""
    block_bytes: int
    """From which size on the allocator gets blocks from the kernel, one by one: see captioning.server.allocator."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What its libraries read from the environment when they are imported, unless it is set."""
    loggers: tuple[str, ...] = ()
    """Libraries of its that bring log handlers of their own."""

    def loader(self) -> Callable[[Path, Settings], Engine]:
        """Import the engine and return what loads a model from a folder."""
        for name, value in self.environment.items():
            os.environ.setdefault(name, value)
        load: Callable[[Path, Settings], Engine] = import_module(self.module).load
        return load


_ENGINES: Mapping[str, EngineKind] = {
    "torch": EngineKind(
        module="captioning.model.torch_engine",
        model_id="a BLIP captioning model on the hub or to a folder that holds one",
        from_hub=True,
        weights=(".safetensors", ".bin"),
        # Torch asks for the same blocks for every picture, the largest of 15.2 MiB (BLIP-base's attention scores): got
        # from the kernel anew, they cost a fifth of a caption's time.
        block_bytes=int(15.5 * MIB),
        environment={
            # transformers would ask the hub, in a thread of its own, for a safetensors copy of pickled weights.
            "DISABLE_SAFETENSORS_CONVERSION": "1",
            # Torch's threads spin while they wait for each other. On a CPU that others use too, the one that is waited
            # for then gets no time: 2.5 s for a caption of 0.1 s.
            "OMP_WAIT_POLICY": "PASSIVE",
        },
        loggers=("transformers", "huggingface_hub"),
    ),
    "int8": EngineKind(
        module="captioning.model.int8.engine",
        model_id="a folder that `make export` wrote from a BLIP captioning model",
        from_hub=False,
        weights=(".onnx", ".weights"),
        block_bytes=128 * 1024,  # glibc's first threshold: ONNX Runtime keeps its own blocks
    ),
}


def engine_kind(settings: Settings) -> EngineKind:
    """Return the row of the engine that the settings name.

    Raises:
        SettingsError: there is no such engine.
    """
    try:
        return _ENGINES[settings.engine]
    except KeyError:
        raise SettingsError(f"Bad settings. ENGINE: must be {' or '.join(_ENGINES)}.") from None


def name_and_revision(settings: Settings) -> tuple[str, str | None]:
    """Return what the model is called: an export, or a copy, is called what it was made from."""
    if origin := _manifest(settings) or _origin(settings):
        return origin.source, origin.revision
    return settings.model_id, settings.revision


def export_fidelity(settings: Settings) -> Fidelity | None:
    """Return how near an int8 export came to its float32 model when it was made; none for other engines."""
    manifest = _manifest(settings)
    return manifest.fidelity if manifest else None


def _manifest(settings: Settings) -> Manifest | None:
    if settings.engine == "int8":
        with suppress(ValueError, OSError):  # loading it says what is wrong
            return Manifest.read(Path(settings.model_id))
    return None


def _origin(settings: Settings) -> Origin | None:
    with suppress(ValueError, OSError):  # most models have none
        return Origin.read(Path(settings.model_id))
    return None
