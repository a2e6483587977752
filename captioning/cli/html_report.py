"""A page of what became of each picture: one file, to look at, sort and print."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from captioning.cli.records import MadeWith, Outcome, visible
from captioning.cli.thumbnails import Thumbnails
from captioning.cli.whole_files import WholeFile
from captioning.errors import CaptioningError
from captioning.settings import Settings

_PAGE = Path(__file__).with_name("report.html")
# Markup.format escapes what it puts in (https://markupsafe.palletsprojects.com/en/stable/formatting/).
_ROW = Markup('<tr><td>{}</td><td>{}</td><td class="{}">{}</td></tr>\n')
_THUMBNAIL = Markup('<img alt="" src="{}">')


class HtmlReport:
    """The page, written row by row; it is there once `finish` was called."""

    def __init__(self, path: str, made_with: MadeWith, settings: Settings) -> None:
        """Begin the page; raise CannotWrite where that is not possible."""
        head, self._foot = _PAGE.read_text(encoding="utf-8").split("{rows}")
        shown = ", ".join(f"{name} {value}" for name, value in made_with.items() if value not in (None, ""))
        self._file = WholeFile(path)
        self._file.write(head.replace("{made_with}", str(Markup.escape(visible(shown)))))
        self._thumbnails = Thumbnails(settings)

    def add(self, outcome: Outcome) -> None:
        """Write the row of one picture.

        Raises CannotWrite.
        """
        failed = isinstance(outcome.result, CaptioningError)
        thumbnail = None if failed else self._thumbnails.data_url(outcome.source)
        image = _THUMBNAIL.format(thumbnail) if thumbnail else ""
        text = outcome.result.message if isinstance(outcome.result, CaptioningError) else outcome.result[0].text
        self._file.write(_ROW.format(image, visible(outcome.source), "error" if failed else "caption", text))

    def finish(self) -> None:
        """Put the page into its place, unless writing it has failed before.

        Raises CannotWrite.
        """
        self._thumbnails.close()
        if not self._file.discarded:
            self._file.write(self._foot)
            self._file.finish()
