"""A line for each picture, captioned or failed, in three forms; and which pictures a file of lines already has."""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata
from dataclasses import dataclass
from typing import Protocol

from captioning.errors import CaptioningError


@dataclass(frozen=True)
class Outcome:
    """The end of one source's way: a caption or an error."""

    source: str
    result: str | CaptioningError


class Form(Protocol):
    """A way to write outcomes: each is one whole line, whatever characters a file's name has."""

    header: str

    def write(self, outcome: Outcome) -> str:
        """Return the line of an outcome with its end, or nothing where the form has no place for errors."""

    def captioned(self, line: str) -> str | None:
        """Return the source of a line, as `visible` spells it, or none for the line of an error.

        Raises:
            ValueError: it is no line of this form.
        """


class Plain:
    """Lines of ``source<TAB>caption``; errors have none."""

    header = ""

    def write(self, outcome: Outcome) -> str:
        """Return the line of a caption."""
        if isinstance(outcome.result, CaptioningError):
            return ""
        return f"{visible(outcome.source)}\t{visible(outcome.result)}\n"

    def captioned(self, line: str) -> str:
        """Return the source of a line."""
        source, _ = line.split("\t")
        return source


class Csv:
    """Lines of ``source,output,error,code``, quoted where needed, under a header."""

    header = "source,output,error,code\n"

    def write(self, outcome: Outcome) -> str:
        """Return the line of a caption or of an error."""
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(map(visible, [outcome.source, *_cells(outcome.result)]))
        return line.getvalue()

    def captioned(self, line: str) -> str | None:
        """Return the source of a line without an error."""
        try:
            source, _, _, code = next(csv.reader([line], strict=True))
        except csv.Error as error:
            raise ValueError(str(error)) from error
        return None if code else source


class Jsonl:
    """Lines of ``{"source", "output"}`` or ``{"source", "error", "code"}``, in ASCII."""

    header = ""

    def write(self, outcome: Outcome) -> str:
        """Return the line of a caption or of an error."""
        caption, error, code = _cells(outcome.result)
        result = {"error": error, "code": code} if code else {"output": caption}
        return json.dumps({"source": outcome.source, **result}) + "\n"

    def captioned(self, line: str) -> str | None:
        """Return the source of a line without an error."""
        record = json.loads(line)
        if not isinstance(record, dict) or not isinstance(record.get("source"), str):
            raise ValueError("no object with a source")
        return visible(record["source"]) if "output" in record else None


def _cells(result: str | CaptioningError) -> tuple[str, str, str]:
    """Return caption, error and code, each empty where there is none."""
    return ("", result.message, result.code) if isinstance(result, CaptioningError) else (result, "", "")


def visible(text: str) -> str:
    r"""Escape what would break a line or control a terminal: a tab becomes \t, a byte that is not UTF-8 \udcff."""
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if character == "\\" or unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
        else character
        for character in text
    )


def captioned_in(path: str, form: Form) -> set[str]:
    """Return the sources, as `visible` spells them, that a file has captions for; remove an incomplete last line.

    Raises:
        ValueError: the file holds something else; it is left as it is.
        OSError: it cannot be read or changed.
    """
    captioned: set[str] = set()
    size = 0
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            text = line.decode()
            if size or not form.header:
                source = form.captioned(text.removesuffix("\n"))
                captioned |= set() if source is None else {source}
            elif text != form.header:
                raise ValueError("no header")
            size += len(line)
    if os.path.getsize(path) > size:
        if not size:
            raise ValueError("no line is whole")
        os.truncate(path, size)
    return captioned
