"""Whether this process takes new work: it serves, or it drains before it ends."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Literal

from captioning.errors import ShuttingDown

ModelStatus = Literal["loading", "ready", "failed"]
Readiness = Literal["loading", "ready", "failed", "draining"]


class Lifecycle:
    """The state of the process, whatever its model does."""

    def __init__(self, *, patience_s: float = 0.0, give_up: Callable[[], object] = lambda: None) -> None:
        """Serve; ``give_up`` is called ``patience_s`` seconds after a drain began, for what is not done by then."""
        self._draining_since = math.inf
        self._last_call = threading.Timer(patience_s, give_up)
        self._last_call.daemon = True

    @property
    def draining(self) -> bool:
        """Tell whether the process finishes what it has and takes nothing new."""
        return self._draining_since < math.inf

    def drain(self) -> None:
        """Take nothing new from now on."""
        if not self.draining:
            self._draining_since = time.monotonic()
            self._last_call.start()

    def check(self, arrived_at: float = math.inf) -> None:
        """Do nothing while new work is taken, or for a request that arrived, on the monotonic clock, while it was.

        Raises:
            ShuttingDown: the process drains.
        """
        if self.draining and arrived_at >= self._draining_since:
            raise ShuttingDown(retry_after_s=1)
