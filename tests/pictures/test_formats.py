"""The table of formats: what tells them, and who reads it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from captioning.errors import UnsupportedImage
from captioning.pictures.decoder import decode_image
from captioning.pictures.formats import ENDINGS, FORMATS, NAMES, format_of
from captioning.web.openapi import describe_api
from tests.conftest import ROOT
from tests.sample_pictures import LARGE_SAMPLES, RARE_SAMPLES, SAMPLES


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.name)
def test_every_format_has_samples_and_no_sample_is_of_two(row: object) -> None:
    samples = {**SAMPLES, **RARE_SAMPLES, **LARGE_SAMPLES}
    assert any(format_of(data) is row for data in samples.values())
    for data in samples.values():
        assert sum(bool(other.signature.match(data)) for other in FORMATS) == 1


def test_readers_of_the_table() -> None:
    with pytest.raises(UnsupportedImage) as caught:
        decode_image(b"no picture")
    assert NAMES in caught.value.message
    assert NAMES in json.dumps(describe_api(keys_needed=False))
    assert f"The formats are {NAMES};" in (ROOT / "docs" / "api.md").read_text()
    assert len(set(ENDINGS)) == len(ENDINGS)


def test_the_table_imports_no_codec() -> None:
    script = "import sys, captioning.pictures.formats; print([name for name in sys.modules if name.startswith('PIL')])"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "brands", [b"avif", b"avis", b"mif1\0\0\0\0miafavif", b"MA1B\0\0\0\0mif1avif", b"heic\0\0\0\0avis"]
)
def test_avif_is_told_by_any_of_its_brands(brands: bytes) -> None:
    found = format_of(b"\0\0\0\x20ftyp" + brands)
    assert found is not None
    assert found.name == "AVIF"
