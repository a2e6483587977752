"""A switch that leaves alone for some seconds what failed."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

log = logging.getLogger("captioning.cache")


class CircuitBreaker:
    """A switch that opens for ``pause_s`` seconds at each failure, and logs the begin and the end of each outage."""

    def __init__(
        self, complaint: str, relief: str, *, pause_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Prepare; ``complaint`` is logged, with the reason, when an outage begins, ``relief`` when it ends."""
        self._complaint = complaint
        self._relief = relief
        self._pause_s = pause_s
        self._clock = clock
        self._open_until = -math.inf
        self._failing = False

    @property
    def is_open(self) -> bool:
        """Tell whether it is to be left alone now."""
        return self._clock() < self._open_until

    def record_failure(self, reason: str) -> None:
        """Open the switch."""
        self._open_until = self._clock() + self._pause_s
        if not self._failing:
            log.warning("%s: %s. It is tried again every %.0f s.", self._complaint, reason, self._pause_s)
        self._failing = True

    def record_success(self) -> None:
        """End the outage, if there was one."""
        if self._failing:
            log.warning("%s.", self._relief)
        self._failing = False
