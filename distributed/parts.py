"""A table of pictures, in parts: what is captioned, written and, after a crash, done again as a whole.

A part is some consecutive rows of one input file, so it is the same part in every run. Its output is a file of its own,
which is there whole or not at all. So the output has every row of the input once, however often a run was killed: what
is left to do is the parts that have no file.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType

from captioning.pictures.formats import ENDINGS

LIKELY_COLUMNS = ("image", "url", "image_url", "path", "bytes")
"""Names under which tables hold pictures; the first that is there is taken where none is named."""

RESULT_COLUMNS = ("caption", "error", "code", "model", "revision", "engine")
_FORMATS = {"parquet": "parquet", "pq": "parquet", "csv": "csv", "jsonl": "json", "ndjson": "json", "json": "json"}


class BadInput(ValueError):
    """A sentence that says what is wrong with the input or the output."""


@dataclass(frozen=True)
class Folder:
    """A folder on this machine or in a store that Arrow writes to, such as ``s3://bucket/folder``."""

    files: FileSystem
    path: str

    @classmethod
    def of(cls, place: str) -> Folder:
        """Find it; it need not be there.

        Raises BadInput where Arrow knows no such kind of place.
        """
        return cls(*_find(place))

    def names(self) -> list[str]:
        """Return what is in it."""
        entries = self.files.get_file_info(FileSelector(self.path, allow_not_found=True))
        return [entry.base_name for entry in entries]

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        with self.files.open_input_stream(f"{self.path}/{name}") as file:
            return bytes(file.read())

    def write(self, name: str, content: bytes) -> None:
        """Write a file that is there whole or not at all; one of this name is replaced."""
        self.files.create_dir(self.path)
        part = f"{self.path}/.{secrets.token_hex(8)}.part"  # hidden from whatever reads the folder as a table
        with self.files.open_output_stream(part) as file:
            file.write(content)
        self.files.move(part, f"{self.path}/{name}")

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a Parquet file that is there whole or not at all."""
        content = pa.BufferOutputStream()
        pq.write_table(table, content)
        self.write(name, content.getvalue())

    def count_rows(self, names: list[str]) -> int:
        """Return how many rows these Parquet files have together."""
        paths = [f"{self.path}/{name}" for name in names]
        return int(ds.dataset(paths, filesystem=self.files, format="parquet").count_rows()) if paths else 0


@dataclass(frozen=True)
class Table:
    """The files of a table, all of one format, and which column holds the pictures."""

    files: FileSystem
    paths: list[str]
    format: str
    column: str
    schema: pa.Schema
    part_rows: int

    @classmethod
    def of(cls, files: FileSystem, paths: list[str], column: str | None, part_rows: int) -> Table:
        """Look at the files.

        Raises BadInput where they cannot be captioned.
        """
        formats = {_FORMATS[_ending(path)] for path in paths}
        if len(formats) != 1:
            raise BadInput("The input mixes Parquet, CSV and JSONL files; give it one kind at a time.")
        (format,) = formats
        try:
            schema = ds.dataset(paths, filesystem=files, format=format).schema
        except (pa.ArrowInvalid, OSError) as error:
            raise BadInput(f"The input cannot be read: {error}") from error
        if column is None:
            column = next((name for name in LIKELY_COLUMNS if name in schema.names), None)
        if column is None or column not in schema.names:
            raise BadInput(f"Name the column that holds the pictures; there are {', '.join(schema.names)}.")
        if taken := set(RESULT_COLUMNS).intersection(schema.names):
            raise BadInput(f"The input has columns that the output adds: {', '.join(sorted(taken))}. Rename them.")
        kind = schema.field(column).type
        if not any(is_kind(kind) for is_kind in _PICTURE_TYPES):
            raise BadInput(f"Column {column} is of type {kind}; pictures are texts (URLs or paths) or bytes.")
        return cls(files, paths, format, column, schema, part_rows)

    def count_rows(self) -> int:
        """Return how many rows all files have together."""
        return int(ds.dataset(self.paths, filesystem=self.files, format=self.format, schema=self.schema).count_rows())

    def parts_of(self, file: int) -> Iterator[tuple[str, pa.Table]]:
        """Yield the parts of a file, the first is number 0, each with the name of its output."""
        dataset = ds.dataset(self.paths[file], filesystem=self.files, format=self.format, schema=self.schema)
        for number, rows in enumerate(_cut(dataset.to_batches(), self.schema, self.part_rows)):
            yield f"part-{file:05d}-{number:06d}.parquet", rows

    def fingerprint(self) -> list[tuple[str, int, int]]:
        """Return what changes when a file does: path, bytes, time of the last change."""
        return [(info.path, info.size, info.mtime_ns or 0) for info in self.files.get_file_info(self.paths)]


def find_files(place: str) -> tuple[FileSystem, list[str], list[str]]:
    """Return the tables and the pictures in a folder and those below it, or the file that is named, sorted by path.

    Raises BadInput where there is nothing of the kind.
    """
    files, path = _find(place)
    info = files.get_file_info(path)
    if info.type == FileType.NotFound:
        raise BadInput(f"There is no {place}.")
    found = [info] if info.is_file else files.get_file_info(FileSelector(path, recursive=True))
    paths = sorted(entry.path for entry in found if entry.is_file and not _is_hidden(entry, path))
    tables = [name for name in paths if _ending(name) in _FORMATS]
    pictures = [name for name in paths if name.lower().endswith(ENDINGS)]
    if not tables and not pictures:
        raise BadInput(f"{place} holds neither pictures nor tables ({', '.join(_FORMATS)}).")
    return files, tables, pictures


_PICTURE_TYPES = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)


def _find(place: str) -> tuple[FileSystem, str]:
    try:
        found: tuple[FileSystem, str] = FileSystem.from_uri(place if "://" in place else os.path.abspath(place))
    except (pa.ArrowInvalid, OSError) as error:
        raise BadInput(f"{place} cannot be reached: {error}") from error
    return found


def _ending(path: str) -> str:
    return path.rpartition(".")[2].lower()


def _is_hidden(entry: FileInfo, root: str) -> bool:
    return any(name.startswith((".", "_")) for name in entry.path.removeprefix(root).split("/"))


def _cut(batches: Iterator[pa.RecordBatch], schema: pa.Schema, rows: int) -> Iterator[pa.Table]:
    """Join batches of any size and cut them into tables of ``rows`` rows; the last one may be smaller."""
    held = schema.empty_table()
    for batch in batches:
        held = pa.concat_tables([held, pa.Table.from_batches([batch])])
        while held.num_rows >= rows:
            yield held.slice(0, rows)
            held = held.slice(rows)
    if held.num_rows:
        yield held
