"""The decoder on damaged pictures of every format: a picture or a refusal, in bounded memory and time, and no crash."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import event, given, note, settings

from tests.conftest import examples
from tests.decoder_process import DecoderProcess
from tests.mutations import mended, mutated, number_fields, segments
from tests.sample_pictures import LARGE_SAMPLES, RARE_SAMPLES, SAMPLES

pytestmark = [
    pytest.mark.fuzz,
    # A failing example is large; the warning about it would hide it.
    pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning"),
]

PICTURES = {**SAMPLES, **RARE_SAMPLES, **LARGE_SAMPLES}
MAX_PIXELS = 4_000_000
REFUSALS = ("UnsupportedImage", "CorruptImage", "TooManyPixels")
# What reading a header may take before a picture has announced anything: PNG's text, tables, metadata.
HEADER_BYTES = 12 * 2**20
# What the allocator takes in advance.
MARGIN_BYTES = 2**20
CPU_S = 10
"""Processor time; the worst picture of MAX_PIXELS takes a fraction of it."""


@pytest.fixture(scope="module")
def decoder() -> Iterator[DecoderProcess]:
    with DecoderProcess(max_pixels=MAX_PIXELS, target_size=64) as process:
        yield process


@pytest.mark.parametrize("name", PICTURES)
def test_what_is_damaged_was_sound(decoder: DecoderProcess, name: str) -> None:
    data = PICTURES[name]
    assert decoder.decode(data).outcome == "picture"
    assert b"".join(segments(data)) == data
    assert mended(data) == data
    assert len(segments(data)) > 1
    assert len(list(number_fields(data))) > 5


@given(mutated(list(PICTURES.values())))
@settings(max_examples=examples(1000))
def test_a_damaged_picture_is_decoded_or_refused(decoder: DecoderProcess, data: bytes) -> None:
    note(repr(data))
    decoded = decoder.decode(data)
    event(decoded.outcome[:20])
    assert decoded.outcome in ("picture", *REFUSALS), decoded.outcome
    assert decoded.pixels <= MAX_PIXELS
    assert decoded.peak_bytes <= (decoded.told_bytes + MARGIN_BYTES if decoded.told_bytes else HEADER_BYTES)
    assert decoded.cpu_s < CPU_S
