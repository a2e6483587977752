"""TIFF in every layout that its tags can say: the samples that were written, or a refusal, and nothing else.

The files are written here, tag by tag, and what they should look like is computed from their samples, so no other
decoder's mistakes can agree with Pillow's.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from captioning.errors import CorruptImage, UnsupportedImage
from captioning.pictures.decoder import decode_image

HEIGHT, WIDTH = 20, 36
NONE, LZW, DEFLATE, PACKBITS = 1, 5, 8, 32773
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

Samples = NDArray[Any]


class Layout(NamedTuple):
    """How samples are put into a file."""

    order: str = "<"
    planar: int = 1
    compression: int = NONE
    predictor: int = 1
    fill_order: int = 1
    tile: int = 0
    rows_per_strip: int = HEIGHT
    big: bool = False


def write_tiff(samples: Samples, bits: int, layout: Layout, tags: dict[int, list[int]]) -> bytes:
    """Encode [height, width, samples] of ``bits`` each, given as unsigned integers."""
    order = layout.order
    planes = [samples[..., [index]] for index in range(samples.shape[2])] if layout.planar == 2 else [samples]
    data, offsets, counts = bytearray(16), [], []
    for piece in (piece for plane in planes for piece in _pieces(plane, layout)):
        packed = _compressed(_rows(piece, bits, layout), layout)
        # Of the bytes in the file, as libtiff and tifffile have it; not of the samples in them.
        packed = packed.translate(_REVERSED) if layout.fill_order == 2 else packed
        data += bytes(len(data) % 2)
        offsets.append(len(data))
        counts.append(len(packed))
        data += packed
    count = samples.shape[2]
    fields = {
        256: [WIDTH],
        257: [HEIGHT],
        258: [bits] * count,
        259: [layout.compression],
        277: [count],
        284: [layout.planar],
        317: [layout.predictor],
        266: [layout.fill_order],
        **({322: [layout.tile], 323: [layout.tile], 324: offsets, 325: counts} if layout.tile else {}),
        **({} if layout.tile else {273: offsets, 278: [layout.rows_per_strip], 279: counts}),
        **tags,
    }
    data += bytes(len(data) % 2)
    directory = len(data)
    # A BigTIFF counts in 8 bytes.
    counted, entry, offset, room = ("Q", "HHQ", "Q", 8) if layout.big else ("H", "HHI", "I", 4)
    head = struct.pack(order + counted, len(fields))
    outside = directory + len(head) + (struct.calcsize(order + entry) + room) * len(fields) + room
    entries, values = b"", b""
    for tag in sorted(fields):
        kind, code = (3, "H") if max(fields[tag]) < 65_536 else (4, "I")
        kind, code = (16, "Q") if layout.big and tag in (273, 325) else (kind, code)
        value = struct.pack(f"{order}{len(fields[tag])}{code}", *fields[tag])
        if len(value) > room:
            values, value = values + value, struct.pack(order + offset, outside + len(values))
        entries += struct.pack(order + entry, tag, kind, len(fields[tag])) + value.ljust(room, b"\0")
    magic = struct.pack(order + "3H", 43, 8, 0) if layout.big else struct.pack(order + "H", 42)
    start = (b"II" if order == "<" else b"MM") + magic + struct.pack(order + offset, directory)
    data[: len(start)] = start
    return bytes(data) + head + entries + bytes(room) + values


def _pieces(plane: Samples, layout: Layout) -> Iterator[Samples]:
    if not layout.tile:
        yield from (plane[top : top + layout.rows_per_strip] for top in range(0, HEIGHT, layout.rows_per_strip))
        return
    for top, left in product(range(0, HEIGHT, layout.tile), range(0, WIDTH, layout.tile)):
        part = plane[top : top + layout.tile, left : left + layout.tile]
        short = [(0, layout.tile - part.shape[0]), (0, layout.tile - part.shape[1]), (0, 0)]
        yield np.pad(part, short)


def _rows(piece: Samples, bits: int, layout: Layout) -> list[bytes]:
    if layout.predictor == 2:
        piece = np.concatenate([piece[:, :1], piece[:, 1:] - piece[:, :-1]], axis=1) % 2**bits
    lines = piece.reshape(len(piece), -1)
    if layout.predictor == 3:
        step = piece.shape[2]
        # The bytes of all samples, most significant first, as differences.
        split = [line.astype(f">u{bits // 8}").view("u1").reshape(-1, bits // 8).T.ravel() for line in lines]
        return [np.concatenate([line[:step], line[step:] - line[:-step]]).tobytes() for line in split]
    if bits >= 8 and bits != 12:
        return [line.astype(f"{layout.order}u{bits // 8}").tobytes() for line in lines]
    digits = lines[..., None] >> np.arange(bits)[::-1] & 1
    return [np.packbits(line.astype(np.uint8).ravel()).tobytes() for line in digits]


def _compressed(rows: list[bytes], layout: Layout) -> bytes:
    data = b"".join(rows)
    if layout.compression == DEFLATE:
        return zlib.compress(data)
    if layout.compression == PACKBITS:
        literals = [line[at : at + 128] for line in rows for at in range(0, len(line), 128)]
        return b"".join(bytes([len(literal) - 1]) + literal for literal in literals)
    if layout.compression == LZW:
        # Literals alone, with a clear code before the codes grow to ten bits.
        codes = [code for at in range(0, len(data), 250) for code in (256, *data[at : at + 250])] + [257]
        return np.packbits((np.array(codes)[:, None] >> np.arange(9)[::-1] & 1).astype(np.uint8)).tobytes()
    return data


PACKINGS = [(NONE, 1), (LZW, 1), (LZW, 2), (DEFLATE, 1), (DEFLATE, 2), (PACKBITS, 1)]


def layouts(bits: int, packings: list[tuple[int, int]]) -> Iterator[Layout]:
    """Yield every layout in which samples of this depth can be."""
    for order, planar, (compression, predictor), tile in product("<>", (1, 2), packings, (0, 16)):
        if predictor == 1 or bits in (8, 16, 32):
            layout = Layout(order, planar, compression, predictor, tile=tile)
            yield from (layout, layout._replace(fill_order=2), layout._replace(big=True))
            if not tile:
                yield layout._replace(rows_per_strip=7)


def waves(count: int) -> Samples:
    """Return [height, width, count] of smooth samples from 0 to 1, no two channels alike."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([0.5 + 0.5 * np.sin(x / (5 + index) + y / (3 + index) + index) for index in range(count)], axis=2)


def over_white(colours: Samples, alpha: Samples) -> Samples:
    return colours * alpha + 1 - alpha


def judged(
    samples: Samples, bits: int, layout: Layout, tags: dict[int, list[int]], expected: Samples, levels: int
) -> str:
    """Return what became of a file, which is no picture that differs by more than these levels of 255."""
    try:
        found = np.asarray(decode_image(write_tiff(samples, bits, layout, tags)), dtype=float)
    except (UnsupportedImage, CorruptImage):
        return "refused"
    assert found.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(found - 255 * expected).max() < levels + 0.5, layout
    return "right"


def lab_looks(values: Samples) -> Samples:
    """Return the sRGB of CIE L*a*b*, given as fractions of unsigned bytes of which the last two are signed.

    By CIE 15 and, adapted to D65 by Bradford, IEC 61966-2-1.
    """
    samples = np.round(values * 255)
    a, b = ((samples[..., band] + 128) % 256 - 128 for band in (1, 2))
    y = (samples[..., 0] * 100 / 255 + 16) / 116
    f = np.stack([y + a / 500, y, y - b / 200], axis=2)
    xyz = np.where(f > 6 / 29, f**3, (f - 4 / 29) * 108 / 841) * [0.9642, 1, 0.8249]
    matrix = [[3.1339, -1.6169, -0.4906], [-0.9788, 1.9161, 0.0335], [0.0719, -0.2290, 1.4052]]
    linear = np.clip(xyz @ np.transpose(matrix), 0, 1)
    colours: Samples = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return colours


# Photometric interpretation, samples, extra samples; how they look; levels that rounding may cost.
KINDS: dict[str, tuple[dict[int, list[int]], int, Any, int]] = {
    "white is zero": ({262: [0]}, 1, lambda v: 1 - v[..., [0, 0, 0]], 1),
    "black is zero": ({262: [1]}, 1, lambda v: v[..., [0, 0, 0]], 1),
    "grey, something": ({262: [1], 338: [0]}, 2, lambda v: v[..., [0, 0, 0]], 1),
    "grey, alpha": ({262: [1], 338: [2]}, 2, lambda v: over_white(v[..., [0, 0, 0]], v[..., [1]]), 2),
    "rgb": ({262: [2]}, 3, lambda v: v, 1),
    "rgb, something": ({262: [2], 338: [0]}, 4, lambda v: v[..., :3], 1),
    "rgb, alpha": ({262: [2], 338: [2]}, 4, lambda v: over_white(v[..., :3], v[..., 3:]), 2),
    "rgb, untold alpha": ({262: [2]}, 4, lambda v: over_white(v[..., :3], v[..., 3:]), 2),
    "rgb, alpha, something": ({262: [2], 338: [2, 0]}, 5, lambda v: over_white(v[..., :3], v[..., 3:4]), 2),
    "rgb, two things": ({262: [2], 338: [0, 0]}, 5, lambda v: v[..., :3], 1),
    "cmyk": ({262: [5]}, 4, lambda v: (1 - v[..., :3]) * (1 - v[..., 3:]), 2),
    "cmyk, something": ({262: [5], 338: [0]}, 5, lambda v: (1 - v[..., :3]) * (1 - v[..., 3:4]), 2),
}
# By depth, the kinds of which every packing in one plane must be read, and not only not be read wrongly.
READ = {
    1: {"white is zero", "black is zero"},
    2: {"white is zero", "black is zero"},
    4: {"white is zero", "black is zero"},
    8: set(KINDS),
    16: {"black is zero", "rgb", "rgb, something", "rgb, alpha", "rgb, untold alpha", "cmyk"},
}


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16, 32])
@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_is_read_right_or_refused(kind: str, bits: int) -> None:
    tags, count, looks, levels = KINDS[kind]
    top = 2**bits - 1
    samples = np.round(waves(count) * top).astype(np.int64)
    expected = looks(samples / top)
    outcomes = Counter(
        (judged(samples, bits, layout, tags, expected, levels), layout.planar, layout.fill_order)
        for layout in layouts(bits, PACKINGS)
        if layout.planar == 1 or count > 1
    )
    if kind in READ.get(bits, ()):
        assert ("refused", 1, 1) not in outcomes
    if kind == "rgb" and bits in (8, 16):
        assert ("refused", 2, 1) not in outcomes


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("count", [2, 4])
def test_premultiplied_alpha_in_every_layout(count: int, bits: int) -> None:
    top = 2**bits - 1
    shares = waves(count)
    shares[..., -1] = 0.5 + shares[..., -1] / 2
    shares[..., :-1] *= shares[..., -1:]
    samples = np.round(shares * top).astype(np.int64)
    seen = samples / top
    expected = np.broadcast_to(seen[..., :-1] + 1 - seen[..., -1:], (HEIGHT, WIDTH, 3))
    tags = {262: [1 if count == 2 else 2], 338: [1]}
    for layout in layouts(bits, PACKINGS):
        judged(samples, bits, layout, tags, expected, 4)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("count", [1, 2])
def test_palettes_in_every_layout(count: int, bits: int) -> None:
    palette = np.random.default_rng(bits).integers(0, 256, (3, 2**bits)) * 257
    samples = np.round(waves(count) * (2**bits - 1)).astype(np.int64)
    expected = palette.T[samples[..., 0]] / 65_535
    tags = {262: [3], 320: palette.ravel().tolist()}
    if count == 2:
        tags[338] = [2]
        expected = over_white(expected, samples[..., 1:] / (2**bits - 1))
    outcomes = [
        (judged(samples, bits, layout, tags, expected, 2), layout.planar, layout.compression)
        for layout in layouts(bits, PACKINGS)
        if layout.planar == 1 or count > 1
    ]
    if bits == 8:
        assert ("right", 1, NONE) in outcomes
        assert ("right", 1, LZW) in outcomes


@pytest.mark.parametrize("kind", ["white is zero", "black is zero", "rgb"])
@pytest.mark.parametrize(("bits", "sample_format"), [(8, 2), (16, 2), (32, 2), (16, 3), (32, 3), (64, 3)])
def test_signed_and_floating_samples_in_every_layout(kind: str, bits: int, sample_format: int) -> None:
    tags, count, looks, _ = KINDS[kind]
    shares = waves(count)
    if sample_format == 2:
        values = np.round((shares - 0.5) * (2**bits - 2)).astype(f"i{bits // 8}")
        packings = PACKINGS
    else:
        values = (shares * 1e3 - 7).astype(f"f{bits // 8}")
        packings = [(NONE, 1), (DEFLATE, 1), (DEFLATE, 3), (LZW, 3)]
    numbers = values.astype(float)
    expected = looks((numbers - numbers.min()) / (numbers.max() - numbers.min()))
    samples = values.view(f"u{bits // 8}").astype(np.uint64 if bits == 64 else np.int64)
    tags = {**tags, 339: [sample_format] * count}
    outcomes = {judged(samples, bits, layout, tags, expected, 1) for layout in layouts(bits, packings)}
    if kind == "black is zero" and (bits, sample_format) in ((16, 2), (32, 2), (32, 3)):
        assert "right" in outcomes


def test_lab_in_every_layout() -> None:
    # littlecms interpolates between what it computes; a wrong sign costs a hundred levels.
    values = waves(3) * [60, 40, 40] + [120, -20, -20]
    samples = np.round(values).astype(np.int64) % 256
    for layout in layouts(8, PACKINGS):
        outcome = judged(samples, 8, layout, {262: [8]}, lab_looks(samples / 255), 8)
        if layout.fill_order == 1:
            assert outcome == ("right" if layout.planar == 1 else "refused")


def test_the_instance_that_was_captioned_wrongly() -> None:
    samples = np.round(waves(3) * 65_535).astype(np.int64)
    for order in "<>":
        found = decode_image(write_tiff(samples, 16, Layout(order=order, planar=2), {262: [2]}))
        assert np.abs(np.asarray(found, dtype=float) - samples / 257).max() <= 1


@pytest.mark.parametrize(
    ("bits", "count", "photometric", "sample_format"),
    [
        (32, 3, 2, 3),  # floating colour
        (16, 1, 1, 3),
        (64, 1, 1, 3),
        (16, 3, 8, 1),  # Lab of 16 bits
        (8, 3, 9, 1),
        (16, 3, 6, 1),  # YCbCr of 16 bits
        (8, 2, 5, 1),  # two inks
        (32, 3, 2, 1),
        (8, 1, 4, 1),
        (16, 1, 32803, 1),
    ],
)
def test_sound_files_of_rare_kinds_are_not_called_damaged(
    bits: int, count: int, photometric: int, sample_format: int
) -> None:
    samples = np.zeros((HEIGHT, WIDTH, count), np.uint64 if bits == 64 else np.int64)
    tags = {262: [photometric], 339: [sample_format] * count}
    with pytest.raises(UnsupportedImage, match="of this kind"):
        decode_image(write_tiff(samples, bits, Layout(), tags))


@pytest.mark.parametrize("compression", [6, 32771, 32809, 34676, 34712, 34887, 34925, 34933, 50000, 50001, 65000])
def test_rare_compressions_are_refused_by_name(compression: int) -> None:
    samples = np.zeros((HEIGHT, WIDTH, 1), np.int64)
    for order, big in product("<>", (False, True)):
        with pytest.raises(UnsupportedImage, match="compression"):
            decode_image(write_tiff(samples, 8, Layout(order=order, compression=compression, big=big), {262: [1]}))


def test_tags_that_are_cut_off_make_no_other_kind() -> None:
    samples = np.round(waves(3) * 255).astype(np.int64)
    data = write_tiff(samples, 8, Layout(planar=2), {262: [2], 339: [1] * 3})
    directory = struct.unpack_from("<I", data, 4)[0]
    for kept in range(directory, len(data), 3):
        with pytest.raises(CorruptImage):
            decode_image(data[:kept])
