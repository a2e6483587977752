"""The proof that reading JPEGs at a reduced scale does not visibly change the model's input."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioning.model.preprocessor import Preprocessor
from captioning.pictures.decoder import JPEG_DRAFT_FACTOR, open_image

BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "jpeg_draft.py"))

# Levels of 255, per kind where it is not 8: a zone plate is full contrast at every frequency up to the highest.
LARGEST = {"zone_plate": 20}


@pytest.mark.parametrize("kind", BENCHMARK["KINDS"], ids=lambda kind: str(kind.__name__))
def test_a_reduced_jpeg_differs_by_a_level_or_by_less_than_another_encoding(kind: Any) -> None:
    # The least side that is reduced at all: where the difference is largest.
    side = 2 * JPEG_DRAFT_FACTOR * 384
    data = BENCHMARK["encode"](kind(side), 90)
    preprocessor = Preprocessor((384, 384), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), rescale_factor=1.0)
    reduced, full = open_image(data, target_size=384), open_image(data)
    assert reduced.pixels * 4 == full.pixels
    picture = full.decode()
    reference = preprocessor(picture)
    difference = np.abs(preprocessor(reduced.decode()) - reference)
    encoded_again = open_image(BENCHMARK["encode"](picture.to_rgb(), 85)).decode()
    noise = np.abs(preprocessor(encoded_again) - reference)
    assert difference.mean() <= max(1, 1.25 * noise.mean())
    assert difference.max() <= max(LARGEST.get(kind.__name__, 8), noise.max())


def test_the_measure_would_notice_a_scale_that_is_too_small() -> None:
    found = BENCHMARK["measure"](BENCHMARK["zone_plate"], 1540, 4)
    assert found.reduced.mean > 20 * found.encoded_again.mean
    assert found.reduced.largest > 30


def test_orientation_and_shape_do_not_matter() -> None:
    for size in ((2304, 2400), (2304, 9000)):
        opened = open_image(BENCHMARK["encode"](Image.new("RGB", size), 90), target_size=384)
        assert opened.pixels == size[0] // 2 * size[1] // 2
