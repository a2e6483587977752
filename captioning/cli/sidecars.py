"""A file beside each picture that holds its caption: ``picture.txt`` as trainers of image models read it, or
``picture.xmp`` with the caption as dc:description, as Lightroom, digiKam and PhotoPrism read it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Literal
from xml.sax.saxutils import escape

import click

from captioning.cli.records import Outcome, visible
from captioning.cli.sources import STANDARD_INPUT, is_url
from captioning.cli.whole_files import write_whole
from captioning.errors import CaptioningError

Kind = Literal["txt", "xmp"]

# XMP part 1 (ISO 16684-1), section 7.8: alternatives by language; section 7.3: the packet's envelope is optional.
_XMP = """\
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">
   <dc:description><rdf:Alt><rdf:li xml:lang="x-default">{}</rdf:li></rdf:Alt></dc:description>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""


class Sidecars:
    """The sidecars of one kind; those that exist are kept unless ``force``."""

    def __init__(self, kind: Kind, *, force: bool) -> None:
        """Write nothing yet."""
        self._kind = kind
        self._force = force

    def path(self, source: str) -> str:
        """Return where the sidecar of a picture is."""
        return f"{os.path.splitext(source)[0]}.{self._kind}"

    def missing(self, sources: Iterable[str]) -> list[str]:
        """Return the sources that a sidecar shall be written for.

        Raises click.UsageError where one has no place for it, or two would share one.
        """
        owners: dict[str, str] = {}
        for source in sources:
            if is_url(source) or source == STANDARD_INPUT:
                raise click.UsageError(f"{visible(source)} is no file, so there is no place for a sidecar.")
            path = self.path(source)
            owner = owners.setdefault(os.path.abspath(path), source)
            if owner != source:
                raise click.UsageError(
                    f"{visible(owner)} and {visible(source)} would share {visible(path)}; rename one of them."
                )
            if os.path.abspath(path) == os.path.abspath(source):
                raise click.UsageError(f"{visible(source)} would be overwritten by its own sidecar.")
        return [source for source in owners.values() if self._force or not os.path.lexists(self.path(source))]

    def add(self, outcome: Outcome) -> None:
        """Write the sidecar of a picture that was captioned.

        Raises CannotWrite.
        """
        if not isinstance(outcome.result, CaptioningError):
            text = outcome.result[0].text
            write_whole(self.path(outcome.source), text + "\n" if self._kind == "txt" else _XMP.format(escape(text)))
