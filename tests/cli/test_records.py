"""Lines for people and programs: whole whatever a file is called, and read back for what is done."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from captioning.cli.records import Csv, Form, Jsonl, Outcome, Plain, captioned_in, visible
from captioning.errors import ImageNotFound

NASTY = [
    "tab\t",
    "line\nend\r",
    "quote\"',;",
    "back\\slash",
    os.fsdecode(b"latin-\xe9"),
    "\x1b[31m",
    "\u202egpj",
    "café 🐌",
]
FORMS: list[Form] = [Plain(), Csv(), Jsonl()]


def lines(form: Form) -> str:
    captioned = [form.write(Outcome(name, f"a caption of {number}")) for number, name in enumerate(NASTY)]
    return form.header + "".join(captioned) + form.write(Outcome("failed", ImageNotFound()))


@pytest.mark.parametrize("form", FORMS)
def test_a_line_is_a_line_of_utf_8_without_controls_whatever_the_name(form: Form) -> None:
    text = lines(form)
    assert text.encode().decode() == text
    assert len(text.splitlines()) == len(NASTY) + (form.header != "") + (not isinstance(form, Plain))
    assert all(character in "\t\n" or character.isprintable() for character in text)


def test_jsonl_keeps_names_as_they_are() -> None:
    records = [json.loads(line) for line in lines(Jsonl()).splitlines()]
    assert [record["source"] for record in records] == [*NASTY, "failed"]
    assert records[0] == {"source": "tab\t", "output": "a caption of 0"}
    assert records[-1] == {"source": "failed", "error": ImageNotFound.sentence, "code": "image_not_found"}


def test_csv_is_read_by_any_reader() -> None:
    rows = list(csv.DictReader(lines(Csv()).splitlines()))
    assert [row["source"] for row in rows] == [visible(name) for name in [*NASTY, "failed"]]
    assert rows[2] == {"source": "quote\"',;", "output": "a caption of 2", "error": "", "code": ""}
    assert rows[-1]["code"] == "image_not_found"


def test_different_names_never_look_the_same() -> None:
    alike = ["\t", "\\t", "\\\\t", "\x85", os.fsdecode(b"\x85"), "\\x85", "\\udc85", "a"]
    assert len({visible(name) for name in alike}) == len(alike)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_captioned_is_read_back_and_a_cut_line_is_cut_off(form: Form, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text(lines(form))
    assert captioned_in(str(file), form) == {visible(name) for name in NASTY}
    whole = file.read_bytes()
    for cut in ("sou", '"', '{"source": "a'):
        file.write_bytes(whole + cut.encode())
        assert captioned_in(str(file), form) == {visible(name) for name in NASTY}
        assert file.read_bytes() == whole


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xd8\xff\xe0\n\x00",
        b"a shopping list",
        b"milk\neggs\n",
        b"\n",
        b"a\tb\tc\n",
        b"[]\n",
        b'{"a": 1}\n',
        b'"a\n',
    ],
)
def test_what_something_else_wrote_is_refused_and_left_alone(form: Form, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r".*"):
        captioned_in(str(file), form)
    assert file.read_bytes() == content


def test_no_form_takes_the_lines_of_another(tmp_path: Path) -> None:
    for writer in FORMS:
        (tmp_path / "file").write_text(lines(writer))
        for reader in FORMS:
            if reader is not writer:
                with pytest.raises(ValueError, match=r".*"):
                    captioned_in(str(tmp_path / "file"), reader)
