"""Requests at a steady rate, whatever becomes of them (open loop)."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import requests

_SAMPLES = Path(__file__).resolve().parent.parent / "models" / "blip-emoji" / "samples"
PICTURE = min(_SAMPLES.glob("*.jpg")).read_bytes()


@dataclass(frozen=True)
class Outcome:
    """Hold what became of a request: when it was due (monotonic), seconds until its answer, 200 or the error's code."""

    due: float
    seconds: float
    code: str


def counted(outcomes: Iterable[Outcome]) -> Counter[str]:
    """Count the outcomes by code."""
    return Counter(outcome.code for outcome in outcomes)


class Load:
    """Requests at a steady rate, every other one over a kept-alive connection; each brings another picture."""

    def __init__(self, url: str, rate: float, image_url: Callable[[int], str] | None = None) -> None:
        """Prepare ``rate`` requests a second; with ``image_url``, every second pair of them brings that URL."""
        self.outcomes: list[Outcome] = []
        self._url = f"{url}/local-caption"
        self._rate = rate
        self._image_url = image_url
        self._kept = threading.local()
        self._done = threading.Event()
        self._callers = ThreadPoolExecutor(500)
        self._clock = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._clock.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._clock.join()
        self._callers.shutdown()

    def _run(self) -> None:
        due = time.monotonic()
        number = 0
        while not self._done.wait(max(0.0, due - time.monotonic())):
            self._callers.submit(self._ask, number, due)
            number += 1
            due += 1 / self._rate

    def _ask(self, number: int, due: float) -> None:
        if not hasattr(self._kept, "session"):
            self._kept.session = requests.Session()
        ask = self._kept.session.post if number % 2 else requests.post
        by_url = self._image_url is not None and number % 4 < 2
        if self._image_url is not None and by_url:
            body, kind = json.dumps({"imageUrl": self._image_url(number)}).encode(), "application/json"
        else:  # what follows a picture's end makes another of it
            body, kind = PICTURE + number.to_bytes(4, "big"), "image/jpeg"
        try:
            answer = ask(self._url, data=body, headers={"Content-Type": kind}, timeout=60)
            code = "200" if answer.ok else str(answer.json()["code"])
        except requests.RequestException as error:
            code = type(error).__name__
        code = f"{code}, by URL" if by_url and code != "200" else code
        self.outcomes.append(Outcome(due, time.monotonic() - due, code))
