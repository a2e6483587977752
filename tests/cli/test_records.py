"""Lines for people and programs: whole whatever a file is called, and read back for what is done."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import click
import pytest

from captioning.cli.records import Csv, Form, Jsonl, MadeWith, Outcome, Plain, visible
from captioning.cli.results_file import captioned_in, open_results
from captioning.errors import ImageNotFound
from tests.candidates import made_up

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
MADE_WITH: MadeWith = {"model": "models/blip-emoji", "num_beams": 1}
FORMS: list[Form] = [Plain(), Csv(), Jsonl(MADE_WITH)]


def lines(form: Form) -> str:
    captioned = [form.write(Outcome(name, made_up(f"a caption of {number}"))) for number, name in enumerate(NASTY)]
    return form.header + "".join(captioned) + form.write(Outcome("failed", ImageNotFound()))


@pytest.mark.parametrize("form", [Plain(), Jsonl(MADE_WITH)])
def test_a_line_is_a_line_of_utf_8_without_controls_whatever_the_name(form: Form) -> None:
    text = lines(form)
    assert text.encode().decode() == text
    assert len(text.splitlines()) == len(NASTY) + (not isinstance(form, Plain))
    assert all(character in "\t\n" or character.isprintable() for character in text)


def test_jsonl_keeps_names_as_they_are() -> None:
    records = [json.loads(line) for line in lines(Jsonl(MADE_WITH)).splitlines()]
    assert [record["source"] for record in records] == [*NASTY, "failed"]
    assert records[0] == {"source": "tab\t", "output": "a caption of 0", "made_with": MADE_WITH}
    assert records[-1] == {"source": "failed", "error": ImageNotFound.sentence, "code": "image_not_found"}


def test_csv_keeps_names_as_they_are_for_any_reader() -> None:
    rows = list(csv.DictReader(io.StringIO(lines(Csv()), newline="")))
    assert [row["source"] for row in rows] == [*NASTY, "failed"]
    assert rows[2] == {"source": "quote\"',;", "output": "a caption of 2", "error": "", "code": ""}
    assert rows[-1]["code"] == "image_not_found"


def test_different_names_never_look_the_same() -> None:
    alike = ["\t", "\\t", "\\\\t", "\x85", os.fsdecode(b"\x85"), "\\x85", "\\udc85", "a"]
    assert len({visible(name) for name in alike}) == len(alike)


def write(path: Path, form: Form, text: str) -> bytes:
    """Write a file as an earlier run left it; return its bytes."""
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    if not isinstance(form, Jsonl):
        path.with_name(path.name + ".made-with.json").write_text(json.dumps(MADE_WITH))
    return path.read_bytes()


@pytest.mark.parametrize("form", FORMS)
def test_what_is_captioned_is_read_back_and_a_cut_record_is_cut_off(form: Form, tmp_path: Path) -> None:
    file = tmp_path / "file"
    whole = write(file, form, lines(form))
    for cut in ("", "sou", '"', '{"source": "a', '"a name\nof lines' if isinstance(form, Csv) else "a"):
        file.write_bytes(whole + cut.encode())
        with open_results(str(file), form, MADE_WITH, resume=True) as results:
            assert results.captioned == {form.spell(name) for name in NASTY}
            results.write(form.write(Outcome("new", made_up("a caption"))))
        assert file.read_bytes() == whole + form.write(Outcome("new", made_up("a caption"))).encode()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("other", [{"num_beams": 3}, {"model": "another"}, {"revision": "main"}])
def test_captions_that_were_made_with_something_else_are_not_mixed(form: Form, other: MadeWith, tmp_path: Path) -> None:
    file = tmp_path / "file"
    whole = write(file, form, lines(form))
    now = {**MADE_WITH, **other}
    form = Jsonl(now) if isinstance(form, Jsonl) else form
    [(name, value)] = other.items()
    with pytest.raises(click.UsageError) as caught, open_results(str(file), form, now, resume=True):
        pass
    assert f"was made with {name} {MADE_WITH.get(name)!r}, and this run has {name} {value!r}" in caught.value.message
    assert file.read_bytes() == whole


@pytest.mark.parametrize("form", FORMS)
def test_captions_of_unknown_origin_are_not_mixed_either(form: Form, tmp_path: Path) -> None:
    file = tmp_path / "file"
    write(file, form, lines(form).replace(json.dumps(MADE_WITH), "{}"))
    (tmp_path / "file.made-with.json").unlink(missing_ok=True)
    with pytest.raises(click.UsageError, match="does not say with which model"):
        captioned_in(str(file), form, MADE_WITH)


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
    with pytest.raises(click.UsageError, match="does not hold"):
        captioned_in(str(file), form, MADE_WITH)
    assert file.read_bytes() == content


def test_no_form_takes_the_lines_of_another(tmp_path: Path) -> None:
    for writer in FORMS:
        write(tmp_path / "file", writer, lines(writer))
        for reader in FORMS:
            if reader is not writer:
                with pytest.raises(click.UsageError, match="does not hold"):
                    captioned_in(str(tmp_path / "file"), reader, MADE_WITH)
