"""Who is let in: said by the routes, and to the server before it waits for a body or spends a thread on a request."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from captioning.errors import Overloaded
from captioning.lifecycle import Lifecycle
from captioning.limits import URL_BODY_BYTES, Limits, Permits
from captioning.web.api_keys import ApiKeys
from captioning.web.request_deadline import ARRIVED_AT

REFUSED = "captioning.refused"
"""The WSGI environ's key for True, where the server knows from `Admission.is_hopeless` that there is no permit."""


@dataclass(frozen=True)
class Admission:
    """Key, drain and permits; whoever finds no permit is told when there may be one."""

    lifecycle: Lifecycle
    api_keys: ApiKeys
    limits: Limits
    expected_wait_s: Callable[[], float]

    def check(self, environ: dict[str, Any]) -> None:
        """Do nothing for a request that may go on to take a permit.

        Raises:
            ShuttingDown: the process drains.
            Overloaded: the server found it hopeless.
        """
        self.lifecycle.check(arrived_at=environ.get(ARRIVED_AT, math.inf))
        if REFUSED in environ:
            raise Overloaded(retry_after_s=self.expected_wait_s())

    def permit(self, permits: Permits, source: object) -> AbstractContextManager[None]:
        """Hold the permits for one picture; a ``source`` that is a text is a URL, and needs a URL's permit too.

        Raises:
            Overloaded: there is none.
        """
        return self.url_permit(permits) if isinstance(source, str) else permits.permit(self.expected_wait_s)

    @contextmanager
    def url_permit(self, permits: Permits) -> Iterator[None]:
        """Hold the permits for one URL.

        Raises:
            Overloaded: there is none.
        """
        with self.limits.urls.permit(self.expected_wait_s), permits.permit(self.expected_wait_s):
            yield

    def is_hopeless(self, permits: Permits, body: bytes, *, names_picture: bool) -> bool:
        """Tell whether there is no permit now for a request with this body; ``names_picture`` says that it is JSON.

        JSON for one caption holds a URL, unless it is long, or brings the picture in a data: URL. A body with neither
        is refused too; when it comes again, it is told what is wrong.
        """
        if permits.full:
            return True
        by_url = names_picture and len(body) <= URL_BODY_BYTES and b"data:" not in body.lower()
        return by_url and self.limits.urls.full
