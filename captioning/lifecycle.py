"""Whether this process takes new work: it serves, or it drains before it ends."""

from __future__ import annotations

import math
import time
from typing import Literal

from captioning.errors import ShuttingDown

ModelStatus = Literal["loading", "ready", "failed"]
Readiness = Literal["loading", "ready", "failed", "draining"]


class Lifecycle:
    """The state of the process, whatever its model does."""

    def __init__(self) -> None:
        """Serve."""
        self._draining_since = math.inf
        self._given_up = False

    @property
    def draining(self) -> bool:
        """Tell whether the process finishes what it has and takes nothing new."""
        return self._draining_since < math.inf

    def drain(self) -> None:
        """Take nothing new from now on."""
        self._draining_since = min(self._draining_since, time.monotonic())

    def give_up(self) -> None:
        """Interrupt what is not done, so that there is time to answer with what is."""
        self._given_up = True

    def check(self, arrived_at: float = math.inf) -> None:
        """Do nothing while new work is taken, or for a request that arrived, on the monotonic clock, while it was.

        Raises:
            ShuttingDown: the process drains.
        """
        if self.draining and arrived_at >= self._draining_since:
            raise ShuttingDown(retry_after_s=1)

    def interrupt(self) -> None:
        """Do nothing until `give_up` was called.

        Raises:
            ShuttingDown: it was.
        """
        if self._given_up:
            raise ShuttingDown(retry_after_s=1)
