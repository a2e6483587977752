"""Damaged and hostile pictures through a real decoder process: a picture or a refusal, within its memory and time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import assume, event, given, note, settings

from captioning.deadline import Deadline
from captioning.errors import CorruptImage, TooManyPixels, UnsupportedImage
from captioning.model.preprocessor import Preprocessor
from captioning.pictures.decoders import Decoders
from captioning.settings import MIB
from tests.conftest import examples
from tests.mutations import mended, mutated, number_fields, segments, size_fields
from tests.sample_pictures import LARGE_SAMPLES, RARE_SAMPLES, SAMPLES

pytestmark = [
    pytest.mark.fuzz,
    # A failing example is large; the warning about it would hide it.
    pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning"),
]

PICTURES = {**SAMPLES, **RARE_SAMPLES, **LARGE_SAMPLES}
PREPROCESS = Preprocessor.from_config({"size": 64})
MAX_PIXELS = 4_000_000
# A sound picture of MAX_PIXELS takes 70 MB in the worst format, and a tenth of a second.
MEMORY_BYTES = 96 * MIB
CPU_S = 3.0


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    with closing(Decoders(processes=1, memory_bytes=MEMORY_BYTES, max_pixels=MAX_PIXELS, cpu_s=CPU_S)) as started:
        yield started


def outcome(decoders: Decoders, data: bytes) -> str:
    """Return what became of a picture; what takes more than a sound one could, or crashes its process, is raised."""
    try:
        decoded = decoders.decode(data, PREPROCESS, Deadline.after(120))
    except (UnsupportedImage, CorruptImage, TooManyPixels) as refusal:
        return type(refusal).__name__
    assert decoded.size[0] * decoded.size[1] <= MAX_PIXELS
    return "picture"


@pytest.mark.parametrize("name", PICTURES)
def test_what_is_damaged_was_sound(decoders: Decoders, name: str) -> None:
    data = PICTURES[name]
    assert outcome(decoders, data) == "picture"
    assert b"".join(segments(data)) == data
    assert mended(data) == data
    assert len(segments(data)) > 1
    assert len(list(number_fields(data))) > 5
    assert list(size_fields(data))


@given(mutated(list(PICTURES.values())))
@settings(max_examples=examples(1000))
def test_a_damaged_picture_is_decoded_or_refused(decoders: Decoders, data: bytes) -> None:
    # The service takes no larger ones, and repeating repeats multiplies.
    assume(len(data) <= 10_000_000)
    note(repr(data))
    event(outcome(decoders, data))
