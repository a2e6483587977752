"""A worker's heartbeat, as gunicorn's master reads it, which a machine that stood still does not stop."""

from __future__ import annotations

import time
from collections.abc import Callable

from gunicorn.workers.workertmp import WorkerTmp

STOOD_STILL_S = 5.0
"""The master asks every second. If it has not asked for this long, it could not, and the worker could not beat."""


class Heartbeat(WorkerTmp):  # type: ignore[misc]
    """The time of a worker's last sign of life; time in which the master did not run does not count.

    A frozen container (docker pause, a suspended instance) would else be killed by its own master as it thaws.
    """

    def __init__(self, cfg: object, clock: Callable[[], float] = time.monotonic) -> None:
        """Make the file through which worker and master share it."""
        super().__init__(cfg)
        self._clock = clock
        self._asked_at = self._awake_since = clock()

    def last_update(self) -> float:
        """Return the monotonic time from which the worker has been silent; asked by the master."""
        now = self._clock()
        if now - self._asked_at > STOOD_STILL_S:
            self._awake_since = now
        self._asked_at = now
        return max(float(super().last_update()), self._awake_since)
