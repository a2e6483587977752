"""The preprocessor against transformers' own, bit for bit."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from captioning.model.preprocessor import Preprocessor
from captioning.pictures.decoder import decode_image, open_image

# As in Salesforce/blip-image-captioning-base at the pinned revision.
PUBLISHED: dict[str, Any] = {
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "BlipImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "processor_class": "BlipProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 384, "width": 384},
}

# On both sides of where Pillow changes the order of its passes, and of where a second strip begins.
SIZES = [
    (1, 1), (1, 7), (5, 3), (383, 385), (384, 384), (384, 90), (90, 384), (112, 112), (640, 480),
    (481, 641), (500, 520), (500, 616), (500, 617), (390, 396), (390, 397), (383, 384), (384, 385),
    (1500, 300), (300, 1500), (2000, 2), (2, 2000), (1031, 1033), (700, 1500), (300_000, 1), (1, 60_000),
]  # fmt: skip


def reference(config: dict[str, Any], image: Image.Image) -> NDArray[np.float32]:
    values = BlipImageProcessorPil(**config)(image, return_tensors="np")["pixel_values"][0]
    return np.asarray(values)


def assert_same_bits(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    assert found.dtype == expected.dtype == np.float32
    assert found.shape == expected.shape
    assert found.tobytes() == np.ascontiguousarray(expected).tobytes()


def noise(size: tuple[int, int], channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)


def encodings() -> Iterator[tuple[str, bytes]]:
    """Pictures of all formats and modes, over several strips high where that is cheap."""
    rgba = Image.fromarray(noise((700, 900), 4))
    rgb = rgba.convert("RGB")
    exif = Image.Exif()
    variants: list[tuple[str, Image.Image, str, dict[str, Any]]] = [
        (mode, rgba.convert(mode), "PNG", {"compress_level": 1})
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
    ]
    variants += [(mode, rgb.convert(mode), "TIFF", {}) for mode in ("CMYK", "YCbCr", "LAB", "I", "F") if mode != "LAB"]
    variants += [("RGB", rgb, form, {}) for form in ("JPEG", "WEBP", "GIF", "BMP", "AVIF", "MPO")]
    variants += [("L", rgb.convert("L"), "JPEG", {}), ("CMYK", rgb.convert("CMYK"), "JPEG", {})]
    for orientation in range(2, 9):
        exif[0x0112] = orientation
        variants.append((f"turned {orientation}", rgb, "PNG", {"exif": exif.tobytes(), "compress_level": 1}))
    for name, image, form, options in variants:
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        yield f"{form} {name}", buffer.getvalue()


ENCODINGS = dict(encodings())


@pytest.mark.parametrize("size", SIZES)
def test_equal_to_transformers_at_every_size(size: tuple[int, int]) -> None:
    image = Image.fromarray(noise(size))
    assert_same_bits(Preprocessor.from_config(PUBLISHED)(image), reference(PUBLISHED, image))


@pytest.mark.parametrize("name", ENCODINGS)
def test_equal_to_transformers_for_every_kind_of_picture(name: str) -> None:
    picture = open_image(ENCODINGS[name], target_size=384).decode()
    whole = decode_image(ENCODINGS[name], target_size=384)
    assert_same_bits(Preprocessor.from_config(PUBLISHED)(picture), reference(PUBLISHED, whole))


@pytest.mark.parametrize(
    "changes",
    [
        {"size": {"height": 112, "width": 112}},
        {"size": 112},
        {"size": {"height": 96, "width": 160}},
        {"resample": 2},
        {"resample": 0},
        {"resample": 1},
        {"rescale_factor": 1 / 127.5},
        {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.25, 1.0]},
    ],
)
@pytest.mark.parametrize("size", [(640, 480), (50, 700), (300, 1900)])
def test_equal_to_transformers_with_other_settings(changes: dict[str, Any], size: tuple[int, int]) -> None:
    config = PUBLISHED | changes
    image = Image.fromarray(noise(size, seed=1))
    assert_same_bits(Preprocessor.from_config(config)(image), reference(config, image))


def test_every_sample_value_in_every_channel() -> None:
    ramp = np.arange(256, dtype=np.uint8)
    image = Image.fromarray(np.stack([ramp, ramp[::-1], np.roll(ramp, 99)], axis=-1).reshape(16, 16, 3))
    config = PUBLISHED | {"size": {"height": 16, "width": 16}}
    assert_same_bits(Preprocessor.from_config(config)(image), reference(config, image))


def test_defaults_are_those_of_transformers() -> None:
    image = Image.fromarray(noise((90, 60)))
    assert_same_bits(Preprocessor.from_config({})(image), reference({}, image))
    saved = BlipImageProcessorPil().to_dict()
    assert_same_bits(Preprocessor.from_config(saved)(image), reference(PUBLISHED, image))


def test_a_folder_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Preprocessor.from_folder(tmp_path)
    BlipImageProcessorPil(size={"height": 112, "width": 112}).save_pretrained(tmp_path)
    assert Preprocessor.from_folder(tmp_path).size == (112, 112)
    assert Preprocessor.from_folder(str(tmp_path)) == Preprocessor.from_folder(tmp_path)
    nested = tmp_path / "processor_config.json"
    nested.write_text(json.dumps({"processor_class": "BlipProcessor"}))
    assert Preprocessor.from_folder(tmp_path).size == (112, 112)
    nested.write_text(json.dumps({"image_processor": PUBLISHED}))
    assert Preprocessor.from_folder(tmp_path).size == (384, 384)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"do_resize": False}, "do_resize"),
        ({"do_rescale": False}, "do_rescale"),
        ({"do_normalize": False}, "do_normalize"),
        ({"do_convert_rgb": False}, "do_convert_rgb"),
        ({"do_center_crop": True}, "do_center_crop"),
        ({"do_pad": True}, "do_pad"),
        ({"do_sharpen": True}, "do_sharpen"),
        ({"size": {"shortest_edge": 384}}, "size"),
        ({"size": {"height": 384, "width": 0}}, "size"),
        ({"size": {"height": 384}}, "size"),
        ({"size": "384"}, "size"),
        ({"size": True}, "size"),
        ({"resample": 17}, "resample"),
        ({"resample": None}, "resample"),
        ({"rescale_factor": 0}, "rescale_factor"),
        ({"rescale_factor": "1/255"}, "rescale_factor"),
        ({"image_mean": [0.5]}, "image_mean"),
        ({"image_mean": 0.5}, "image_mean"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std"),
        ({"image_std": ["a", "b", "c"]}, "image_std"),
        ({"image_processor_type": "CLIPImageProcessor"}, "image_processor_type"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=f"^{key}: "):
        Preprocessor.from_config(PUBLISHED | changes)


def test_only_rgb_is_taken() -> None:
    with pytest.raises(ValueError, match="RGB"):
        Preprocessor.from_config(PUBLISHED)(Image.new("RGBA", (5, 5)))


def test_many_threads_share_one() -> None:
    preprocessor = Preprocessor.from_config(PUBLISHED | {"size": 112})
    images = [Image.fromarray(noise((200 + seed, 150), seed=seed)) for seed in range(16)]
    expected = [preprocessor(image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        for found, single in zip(pool.map(preprocessor, images * 3), expected * 3, strict=True):
            assert_same_bits(found, single)


def test_results_own_their_memory() -> None:
    preprocessor = Preprocessor.from_config(PUBLISHED)
    first = preprocessor(Image.new("RGB", (9, 9), "red"))
    copy = first.copy()
    preprocessor(Image.new("RGB", (9, 9), "blue"))
    assert_same_bits(first, copy)
    assert first.flags.c_contiguous
    assert first.flags.writeable
