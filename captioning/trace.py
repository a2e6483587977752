"""What is learnt about one picture on its way: how long each stage took, and what the picture was."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal


@dataclass
class Trace:
    """Collect what the stages tell, in the order in which they ran; what never came to be known stays none.

    ``seconds`` holds fetch, cache, decode, queue and generate, then the parts of generate: encode and decode_tokens.
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
