"""Whether this process takes new work: it serves, or it drains before it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal

from captioning.errors import ShuttingDown

ModelStatus = Literal["loading", "ready", "failed"]
Readiness = Literal["loading", "ready", "failed", "draining"]


class Lifecycle:
    """The state of the process, whatever its model does."""

    def __init__(self, *, patience_s: float = 0.0, give_up: Callable[[], object] = lambda: None) -> None:
        """Serve; ``give_up`` is called ``patience_s`` seconds after a drain began, for what is not done by then."""
        self._draining = threading.Event()
        self._last_call = threading.Timer(patience_s, give_up)
        self._last_call.daemon = True

    @property
    def draining(self) -> bool:
        """Tell whether the process finishes what it has and takes nothing new."""
        return self._draining.is_set()

    def drain(self) -> None:
        """Take nothing new from now on."""
        if not self._draining.is_set():
            self._draining.set()
            self._last_call.start()

    def check(self) -> None:
        """Do nothing while new work is taken.

        Raises:
            ShuttingDown: the process drains.
        """
        if self.draining:
            raise ShuttingDown(retry_after_s=1)
