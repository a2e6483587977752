"""How far a run is, on standard error: a bar if that is a terminal, and sentences beside it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click
from tqdm import tqdm


class Progress:
    """Counts of pictures, shown as they grow."""

    def __init__(self, *, total: int, done: int) -> None:
        """Start with ``done`` of ``total`` pictures, captioned by an earlier run."""
        self.total = total
        self.done = done
        self.failed = 0
        self._bar: tqdm[None] | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bar."""
        # A terminal without a size, as some containers have, would show an empty bar.
        sizeless = sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns == 0
        with tqdm(
            total=self.total,
            initial=self.done,
            unit=" pictures",
            ncols=80 if sizeless else None,
            nrows=24 if sizeless else None,
            dynamic_ncols=not sizeless,
            file=sys.stderr,
            disable=None,
        ) as self._bar:
            yield

    def add(self, *, failed: bool) -> None:
        """Count one picture."""
        self.done += 1
        self.failed += failed
        if self._bar is not None:
            self._bar.update()

    def say(self, text: str) -> None:
        """Write a line to standard error, if anybody reads that."""
        with self.beside_the_bar(), suppress(OSError):
            click.echo(text, err=True)

    def say_on_terminal(self, text: str) -> None:
        """Write a line to standard error if a person may be reading it."""
        if sys.stderr.isatty():
            self.say(text)

    @contextmanager
    def beside_the_bar(self) -> Iterator[None]:
        """Take the bar away for as long as something else is written to the terminal."""
        if self._bar is None:
            yield
            return
        with self._bar.get_lock():
            self._bar.clear(nolock=True)
            yield
            self._bar.refresh(nolock=True)
