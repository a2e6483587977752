"""The decoder in company: many threads, and silence."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from captioning.pictures.decoder import open_image
from tests.pictures.decoded import assert_close, decoded
from tests.sample_pictures import SAMPLES, encoded, quadrants, tiff

# The decoder silences Pillow's warnings; pytest's "error" would outrank that filter.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::RuntimeWarning:PIL")


def test_many_threads_decode_at_once() -> None:
    expected = {name: decoded(data).tobytes() for name, data in SAMPLES.items()}
    with ThreadPoolExecutor(8) as pool:
        for name, found in pool.map(lambda name: (name, decoded(SAMPLES[name]).tobytes()), list(SAMPLES) * 8):
            assert found == expected[name]


def test_one_picture_may_be_read_by_many_threads() -> None:
    picture = open_image(SAMPLES["png palette"]).decode()
    whole = np.asarray(picture.to_rgb())
    with ThreadPoolExecutor(8) as pool:
        strips = list(pool.map(lambda top: np.asarray(picture.crop((0, top, 32, top + 1))), range(48 // 2)))
    assert_close(np.concatenate(strips), whole[: 48 // 2, :32])


def test_nothing_is_printed_about_sloppy_pictures(tmp_path: Path) -> None:
    (tmp_path / "sloppy.jpg").write_bytes(encoded(quadrants(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\x00\x05\x01\x12"))
    (tmp_path / "cut.tif").write_bytes(SAMPLES["tiff lzw"][:-20])
    fax = tiff(600, 300, np.random.default_rng(0).bytes(10_000), {258: 1, 262: 0, 259: 4})
    (tmp_path / "fax.tif").write_bytes(fax)
    (tmp_path / "samples.tif").write_bytes(tiff(4, 4, bytes(16), {258: 8, 262: 1, 277: 9}))
    script = """
import sys, pathlib
from captioning.pictures.decoder import decode_image
from captioning.errors import CaptioningError
for path in sys.argv[1:]:
    try:
        decode_image(pathlib.Path(path).read_bytes())
    except CaptioningError:
        pass
"""
    ran = subprocess.run(
        [sys.executable, "-c", script, *map(str, sorted(tmp_path.iterdir()))],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert (ran.stdout, ran.stderr) == ("", "")
