"""What is learnt about one picture on its way: how long each stage took, and what the picture was."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Literal

STAGES = ("receive", "download_wait", "fetch", "cache", "decoder_wait", "decode", "queue", "generate")
"""What a request can spend its time on, in order. In those named for a wait, and in queue, it stands in a line."""


@dataclass
class Trace:
    """The facts that the stages tell, in the order in which they ran; what never came to be known stays none.

    ``seconds`` is by stage (`STAGES`); then come the parts of generate: encode and decode_tokens.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    image_host: str | None = None
    image_bytes: int | None = None
    image_format: str | None = None
    image_size: tuple[int, int] | None = None
    cache: Literal["hit", "miss"] | None = None
    batch_size: int | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what runs inside, also when it fails."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = time.monotonic() - started

    @contextmanager
    def waiting(self, name: str, place: AbstractContextManager[None]) -> Iterator[None]:
        """Hold ``place`` around what runs inside, and time only how long it took to get it."""
        with ExitStack() as held:
            with self.stage(name):
                held.enter_context(place)
            yield
