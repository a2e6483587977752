"""What a folder of a model was made from: a note beside its files, which the folder's name does not tell."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

_NAME = "origin.json"


class Origin(BaseModel):
    """Name a model as it was named where it came from."""

    model_config = ConfigDict(frozen=True)

    source: str  # hub name or folder
    revision: str | None  # commit of a hub model

    @classmethod
    def of(cls, folder: Path, *, named: str) -> Origin:
        """Return what the note in a folder says, or else what the folder itself tells of a model so ``named``."""
        try:
            return cls.read(folder)
        except OSError:
            return cls(source=named, revision=folder.name if folder.parent.name == "snapshots" else None)

    def write(self, folder: Path) -> None:
        """Write the note."""
        (folder / _NAME).write_text(self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Origin:
        """Read the note.

        Raises:
            OSError: there is none.
            ValueError: it is broken.
        """
        return cls.model_validate_json((folder / _NAME).read_bytes())
