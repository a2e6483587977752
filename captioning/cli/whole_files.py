"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress

from captioning.cli.records import ENCODING, ERRORS, visible


class CannotWrite(Exception):
    """A sentence that says what could not be written, and why."""

    def __init__(self, name: str, error: OSError) -> None:
        """Name what could not be written as it shall be shown."""
        if isinstance(error, BrokenPipeError):
            super().__init__(f"{name} was closed by its reader.")
        else:
            super().__init__(f"{name} cannot be written: {error.strerror}.")


class WholeFile:
    """A file that is written beside its place, and moved there at its end."""

    def __init__(self, path: str) -> None:
        """Begin; raise CannotWrite where that is not possible."""
        self.discarded = False
        self._path = path
        self._part = os.path.join(os.path.dirname(path), f".{secrets.token_hex(8)}.part")
        try:
            self._file = open(self._part, "x", newline="", encoding=ENCODING, errors=ERRORS)  # noqa: SIM115 - finish or discard closes it
        except OSError as error:
            raise CannotWrite(visible(path), error) from error

    def write(self, text: str) -> None:
        """Add text; after CannotWrite, nothing of the file is left."""
        try:
            self._file.write(text)
        except OSError as error:
            self._give_up(error)

    def finish(self) -> None:
        """Put the file into its place; after CannotWrite, what was there before is as it was."""
        try:
            self._file.close()
            os.replace(self._part, self._path)
        except OSError as error:
            self._give_up(error)

    def discard(self) -> None:
        """Leave nothing of the file."""
        self.discarded = True
        with suppress(OSError):  # what is still in its buffer cannot be written either
            self._file.close()
        with suppress(OSError):
            os.unlink(self._part)

    def _give_up(self, error: OSError) -> None:
        self.discard()
        raise CannotWrite(visible(self._path), error) from error


def write_whole(path: str, text: str) -> None:
    """Write a file at once.

    Raises CannotWrite; then nothing is left behind, and a file that was there is as it was.
    """
    file = WholeFile(path)
    file.write(text)
    file.finish()
