"""What is written of each picture, in three forms, and read back from a file of an earlier run."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from captioning.errors import CaptioningError
from captioning.model.engine import Candidates

MadeWith = Mapping[str, object]
"""What captions depend on: the model, its revision, the engine and the options."""

# A name that is not UTF-8 is written byte for byte, as it stands on the disk.
ENCODING, ERRORS = "utf-8", "surrogateescape"


@dataclass(frozen=True)
class Outcome:
    """The end of one source's way: its captions, the best first, or an error."""

    source: str
    result: Candidates | CaptioningError


@dataclass(frozen=True)
class Kept:
    """A record of an earlier run: which source it has a caption for, if any, and what made it, if it says so."""

    source: str | None
    made_with: MadeWith | None = None


class Form(Protocol):
    """A way to write outcomes: each is one whole record, whatever characters a file's name has."""

    header: str

    def spell(self, source: str) -> str:
        """Return how the records name a source."""

    def write(self, outcome: Outcome) -> str:
        """Return the record with its end, or nothing where the form has no place for errors."""

    def read(self, lines: Iterator[str]) -> Iterator[Kept]:
        """Yield the records that whole lines hold; the last one may be cut short, and is left out then.

        Raises ValueError for what is no record of this form.
        """


class Plain:
    """``source<TAB>caption``, and no errors."""

    header = ""

    def spell(self, source: str) -> str:
        """Return the source without what would break a line."""
        return visible(source)

    def write(self, outcome: Outcome) -> str:
        """Return the line of a caption."""
        if isinstance(outcome.result, CaptioningError):
            return ""
        return f"{visible(outcome.source)}\t{visible(outcome.result[0].text)}\n"

    def read(self, lines: Iterator[str]) -> Iterator[Kept]:
        """Yield what each line holds."""
        for line in lines:
            source, _ = line.split("\t")
            yield Kept(source)


class Csv:
    """``source,output,error,code`` under a header, as RFC 4180 has it but for the ends of lines."""

    header = "source,output,error,code\n"

    def spell(self, source: str) -> str:
        """Return the source as it is."""
        return source

    def write(self, outcome: Outcome) -> str:
        """Return the record of a caption or of an error."""
        record = io.StringIO()
        csv.writer(record, lineterminator="\n").writerow([outcome.source, *_cells(outcome.result)])
        return record.getvalue()

    def read(self, lines: Iterator[str]) -> Iterator[Kept]:
        """Yield what each record holds; a name may go over several lines."""
        records = csv.reader(lines, strict=True)
        while True:
            try:
                record = next(records)
            except StopIteration:
                return
            except csv.Error as error:
                if next(lines, None) is None:  # cut short within quotes
                    return
                raise ValueError(str(error)) from error
            source, _, _, code = record
            yield Kept(None if code else source)


class Jsonl:
    """``{"source", "output", "made_with"}`` or ``{"source", "error", "code"}`` a line, in ASCII.

    ``details`` and ``candidates`` add what these options of the API add to its answers.
    """

    header = ""

    def __init__(self, made_with: MadeWith, *, details: bool = False, candidates: int = 0) -> None:
        """Write this with each caption."""
        self._made_with = made_with
        self._details = details
        self._candidates = candidates

    def spell(self, source: str) -> str:
        """Return the source as it is."""
        return source

    def write(self, outcome: Outcome) -> str:
        """Return the line of a caption or of an error."""
        record: dict[str, Any] = {"source": outcome.source}
        if isinstance(outcome.result, CaptioningError):
            record |= {"error": outcome.result.message, "code": outcome.result.code}
        else:
            best, *_ = outcome.result
            record["output"] = best.text
            if self._details:
                record |= {"confidence": best.confidence, "tokens": best.tokens, "finishReason": best.finish_reason}
            if self._candidates:
                listed = outcome.result[: self._candidates]
                record["candidates"] = [{"output": one.text, "score": one.score} for one in listed]
            record["made_with"] = self._made_with
        return json.dumps(record) + "\n"

    def read(self, lines: Iterator[str]) -> Iterator[Kept]:
        """Yield what each line holds."""
        for line in lines:
            record = json.loads(line)
            if not isinstance(record, dict) or not isinstance(record.get("source"), str):
                raise ValueError("no object with a source")
            yield Kept(record["source"], record.get("made_with", {})) if "output" in record else Kept(None)


def _cells(result: Candidates | CaptioningError) -> tuple[str, str, str]:
    """Return caption, error and code, each empty where there is none."""
    return ("", result.message, result.code) if isinstance(result, CaptioningError) else (result[0].text, "", "")


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
