"""The file or stream that the records go to, what a file has from an earlier run, and with what that was made.

A file never holds half a record: what a crash left is cut off before anything is added, and so is what a full disk
left. A run that goes on with a file must caption as the run that began it did.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

import click

from captioning.cli.records import ENCODING, ERRORS, Form, Jsonl, MadeWith, visible
from captioning.cli.whole_files import CannotWrite, write_whole


@dataclass
class Results:
    """Where the records go, and the sources, as the form spells them, that have a caption there already."""

    file: BinaryIO
    name: str
    captioned: set[str]

    def write(self, record: str) -> None:
        """Write one record, at once and whole.

        Raises CannotWrite.
        """
        if not record:
            return
        before = os.fstat(self.file.fileno())
        try:
            self.file.write(record.encode(ENCODING, ERRORS))
            self.file.flush()
        except OSError as error:
            self._give_up(before)
            raise CannotWrite(self.name, error) from error

    def _give_up(self, before: os.stat_result) -> None:
        """Take back what was written of a record, and let no buffer try again as the process ends."""
        descriptor = self.file.fileno()
        if stat.S_ISREG(before.st_mode):
            with suppress(OSError):
                os.ftruncate(descriptor, before.st_size)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


@contextmanager
def open_results(output: str | None, form: Form, made_with: MadeWith, *, resume: bool) -> Iterator[Results]:
    """Open standard output or a file, with the form's header if it has none.

    Raises:
        click.UsageError: the file cannot be used, or holds something else than this run would write.
        CannotWrite: the disk is full, or nobody reads.
    """
    if output is None:
        results = Results(sys.stdout.buffer, "Standard output", set())
        results.write(form.header)
        yield results
        return
    if _is_begun(output) and not resume:
        raise click.UsageError(f"{visible(output)} exists; go on with it by --resume, or name another file.")
    captioned, size = captioned_in(output, form, made_with)
    try:
        if size:
            os.truncate(output, size)  # what was cut short
        file = open(output, "ab")  # noqa: SIM115 - closed below, where its errors are others than those here
    except OSError as error:
        raise click.UsageError(f"{visible(output)} cannot be written: {error.strerror}.") from error
    results = Results(file, visible(output), captioned)
    try:
        if not size:
            results.write(form.header)
            if not isinstance(form, Jsonl):
                write_whole(_beside(output), json.dumps(made_with, indent=2) + "\n")
        yield results
    finally:
        file.close()


def captioned_in(path: str, form: Form, made_with: MadeWith) -> tuple[set[str], int]:
    """Return the sources that a file has captions for, and the bytes of its whole records, if there is such a file.

    Raises:
        click.UsageError: it cannot be read, holds something else, or its captions were made with something else.
    """
    if not _is_begun(path):
        return set(), 0
    try:
        return _captioned_in(path, form, made_with)
    except OSError as error:
        raise click.UsageError(f"{visible(path)} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise click.UsageError(f"{visible(path)} does not hold what this command writes in this form.") from error


def _is_begun(path: str) -> bool:
    return os.path.isfile(path) and os.path.getsize(path) > 0


def _captioned_in(path: str, form: Form, made_with: MadeWith) -> tuple[set[str], int]:
    captioned: set[str] = set()
    with open(path, "rb") as file:
        lines = _WholeLines(file)
        if form.header and next(lines, None) != form.header:
            raise ValueError("no header")
        size = lines.size
        for kept in form.read(lines):
            size = lines.size
            if kept.source is not None:
                captioned.add(kept.source)
            if kept.made_with is not None:
                _compare(path, kept.made_with, made_with)
    if not size:
        raise ValueError("no record is whole")
    if captioned and not isinstance(form, Jsonl):
        _compare(path, _read_beside(path), made_with)
    return captioned, size


class _WholeLines:
    """The lines of a file that have an end; ``size`` counts their bytes so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise StopIteration
        self.size += len(line)
        return line.decode(ENCODING, ERRORS)


def _beside(path: str) -> str:
    return f"{path}.made-with.json"


def _read_beside(path: str) -> Any:
    try:
        with open(_beside(path), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def _compare(path: str, earlier: Any, now: MadeWith) -> None:
    """Raise UsageError, naming each difference, unless both would make the same captions."""
    if not isinstance(earlier, dict) or not earlier:
        raise click.UsageError(
            f"{visible(path)} does not say with which model and options its captions were made; name another file."
        )
    different = [name for name in {**earlier, **now} if earlier.get(name) != now.get(name)]
    if different:
        was = ", ".join(f"{name} {earlier.get(name)!r}" for name in different)
        would_be = ", ".join(f"{name} {now.get(name)!r}" for name in different)
        raise click.UsageError(
            f"{visible(path)} was made with {was}, and this run has {would_be}. Use the same, or name another file."
        )
