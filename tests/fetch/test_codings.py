"""Labels are hints: how a body was packed is told by its content, within the same limits."""

from __future__ import annotations

import gzip
import itertools
import math
import zlib
from collections.abc import Callable
from functools import partial

import brotli
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from captioning import errors
from captioning.deadline import Deadline
from captioning.limits import Limits
from captioning.settings import Settings
from tests.bad_servers import BadServer, answer_with, flood, http_answer
from tests.fetch.local import make_fetcher, memory_under
from tests.sample_pictures import SAMPLES

pytestmark = pytest.mark.usefixtures("names")

PICTURE = bytes(range(256)) * 40
OK = "HTTP/1.1 200 OK\r\n"


def raw_deflate(data: bytes, level: int = 6) -> bytes:
    packer = zlib.compressobj(level, wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def fetched(body: bytes, *codings: str, max_bytes: int = 1_000_000) -> bytes:
    headers = [f"Content-Encoding: {coding}" for coding in codings]
    with BadServer(answer_with(http_answer(body, headers=headers))) as server:
        return make_fetcher(max_bytes=max_bytes).fetch(server.url())


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "raw deflate": raw_deflate,
    "br": brotli.compress,
    "zstd": zstd.compress,
}


@pytest.mark.parametrize(
    "label",
    ["", ",", " , ,", "utf-8", "UTF8", "none", "binary", "8bit", "aws-chunked", "identity", '"identity"', "image/png",
     "null", "undefined", "*", "compress", "bzip2", "identity, none;q=0", "gzip", "x-gzip", "deflate", "br", "zstd",
     "gzip, gzip, gzip, gzip", "aws-chunked, br", "DEFLATE, BR"],
)  # fmt: skip
def test_a_picture_that_is_not_packed_is_a_picture_under_any_label(label: str) -> None:
    for picture in SAMPLES.values():
        assert fetched(picture, label) == picture


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize(
    "label", ["{}", "{} ", " {},", ",{},,", "{}, identity", "utf-8, {}", "aws-chunked,{}", '"{}"', "{};q=1", "none {}"]
)
def test_a_label_may_stand_among_others_in_any_form(packing: str, label: str) -> None:
    body = PACKERS[packing](PICTURE)
    name = packing.removeprefix("raw ")
    assert fetched(body, label.format(name)) == PICTURE
    assert fetched(body, label.format(name).upper()) == PICTURE
    assert fetched(body, "identity", label.format(name), "") == PICTURE


@pytest.mark.parametrize("label", ["x-gzip", "", "none", "utf-8", "aws-chunked", "identity", "deflate", "br", "zstd"])
def test_gzip_is_known_by_its_content(label: str) -> None:
    assert fetched(gzip.compress(PICTURE), label) == PICTURE


@pytest.mark.parametrize("label", ["", "gzip", "utf-8", "br", "deflate"])
def test_zstd_is_known_by_its_content(label: str) -> None:
    assert fetched(zstd.compress(PICTURE), label) == PICTURE


@pytest.mark.parametrize("packing", PACKERS)
def test_the_coding_of_the_transfer_is_undone_as_well(packing: str) -> None:
    body = PACKERS[packing](PICTURE)
    head = f"{OK}Transfer-Encoding: {packing.removeprefix('raw ')}, chunked\r\n\r\n{len(body):x}\r\n"
    with BadServer(answer_with(head.encode() + body + b"\r\n0\r\n\r\n")) as server:
        assert make_fetcher().fetch(server.url()) == PICTURE


@pytest.mark.parametrize(
    ("packed", "labels"),
    [
        pytest.param(gzip.compress(gzip.compress(PICTURE)), "gzip, gzip", id="gzip twice"),
        pytest.param(gzip.compress(gzip.compress(gzip.compress(PICTURE))), "gzip", id="gzip three times"),
        pytest.param(gzip.compress(zlib.compress(PICTURE)), "deflate, gzip", id="deflate, then gzip"),
        pytest.param(gzip.compress(brotli.compress(PICTURE)), "br, gzip", id="br, then gzip"),
        pytest.param(brotli.compress(gzip.compress(PICTURE)), "gzip, br", id="gzip, then br"),
        pytest.param(zstd.compress(brotli.compress(raw_deflate(PICTURE))), "deflate, br, zstd", id="three in a row"),
        pytest.param(brotli.compress(PICTURE), "br, gzip", id="br, then gzip that is none"),
    ],
)
def test_several_layers_are_undone(packed: bytes, labels: str) -> None:
    assert fetched(packed, labels) == PICTURE


def test_no_more_than_three_layers_are_undone() -> None:
    inner = gzip.compress(PICTURE)
    assert fetched(gzip.compress(gzip.compress(gzip.compress(inner))), "gzip, gzip, gzip, gzip") == inner


@pytest.mark.parametrize("pack", [pytest.param(gzip.compress, id="gzip"), pytest.param(zstd.compress, id="zstd")])
@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_several_members_are_one_picture(pack: Callable[[bytes], bytes], piece: int) -> None:
    """Whatever the pieces in which they come, and with gzip's padding between them (RFC 1952 allows none, tapes do)."""
    members = pack(PICTURE[:100]) + pack(b"") + pack(PICTURE[100:5000]) + pack(PICTURE[5000:])
    chunks = [members[at : at + piece] for at in range(0, len(members), piece)]
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    with BadServer(answer_with(f"{OK}Transfer-Encoding: chunked\r\n\r\n".encode() + body)) as server:
        assert make_fetcher().fetch(server.url()) == PICTURE


@pytest.mark.parametrize("packing", ["gzip", "deflate", "raw deflate", "zstd"])
@pytest.mark.parametrize("trash", [b"\0", b"\0" * 600, b"\n", b"trash", b"\x1f", b"<!-- cached -->" * 9000])
def test_what_follows_the_packed_body_is_ignored(packing: str, trash: bytes) -> None:
    assert fetched(PACKERS[packing](PICTURE) + trash, packing.removeprefix("raw ")) == PICTURE


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("kept", [0.01, 0.5, 0.999])
def test_a_packed_body_that_ends_early_is_no_picture(packing: str, kept: float) -> None:
    packed = PACKERS[packing](SAMPLES["jpeg"])
    cut = packed[: max(int(len(packed) * kept), 13)]
    with pytest.raises(errors.ImageFetchFailed, match=r"early|unpacked"):
        fetched(cut, packing.removeprefix("raw "))


@pytest.mark.parametrize("packing", PACKERS)
def test_a_packed_body_that_is_damaged_is_no_picture(packing: str) -> None:
    packed = bytearray(PACKERS[packing](SAMPLES["jpeg"]))
    packed[len(packed) // 2 :: 5] = b"\xaa" * len(packed[len(packed) // 2 :: 5])
    with pytest.raises(errors.ImageFetchFailed, match=r"early|unpacked"):
        fetched(bytes(packed), packing.removeprefix("raw "))


@given(st.sampled_from(sorted(PACKERS)), st.integers(0, 4), st.integers(-3, 3), st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_body_of_any_length_is_unpacked_whole(packing: str, pieces: int, more: int, plain: bool) -> None:
    body = (bytes if plain else lambda size: PICTURE[: size % 10_000] * (size // 10_000 + 1))(
        max(pieces * 65_536 + more, 0)
    )
    assert fetched(PACKERS[packing](body), packing.removeprefix("raw ")) == body


# ---- bombs


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_bomb_is_unpacked_no_further_than_the_limit(packing: str, layers: int) -> None:
    bomb = bytes(50_000_000)
    for _ in range(layers):
        bomb = PACKERS[packing](bomb)
    label = ", ".join([packing.removeprefix("raw ")] * layers)
    with BadServer(answer_with(http_answer(bomb, headers=[f"Content-Encoding: {label}"]))) as server:
        fetcher = make_fetcher(max_bytes=1_000_000)
        with memory_under(5_000_000), pytest.raises(errors.ImageTooLarge):
            fetcher.fetch(server.url())


def test_a_window_over_the_limit_of_http_is_refused() -> None:
    frame = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 24})
    packed = frame.compress(PICTURE) + frame.flush()
    with pytest.raises(errors.ImageFetchFailed, match="unpacked"):
        fetched(packed, "zstd")


@pytest.mark.parametrize("packings", [["br"], ["zstd"], ["gzip", "br"], ["br", "zstd", "br"]])
def test_what_a_decompressor_keeps_is_accounted_for_and_there_is_room_for_it(packings: list[str]) -> None:
    packed = PICTURE
    for packing in packings:
        packed = PACKERS[packing](packed)
    service = Settings(max_image_bytes=len(PICTURE))
    with (
        BadServer(answer_with(http_answer(packed, headers=[f"Content-Encoding: {', '.join(packings)}"]))) as server,
        Limits.from_settings(service).pictures.hold() as hold,
    ):
        grow = partial(hold.grow, deadline=Deadline.after(60))
        assert make_fetcher(max_bytes=len(PICTURE)).fetch(server.url(), on_bytes=grow) == PICTURE
        assert hold.size > len(PICTURE)


@pytest.mark.parametrize(
    "wave", [gzip.compress(b"") * 3000, zstd.compress(b"") * 5000], ids=["gzip members", "zstd frames"]
)
def test_members_of_nothing_end_at_a_number(wave: bytes) -> None:
    with (
        BadServer(flood(f"{OK}\r\n".encode(), wave)) as server,
        pytest.raises(errors.ImageFetchFailed, match="1,000 members"),
    ):
        make_fetcher(max_bytes=100_000_000).fetch(server.url())


@pytest.mark.parametrize("pack", [pytest.param(gzip.compress, id="gzip"), pytest.param(zstd.compress, id="zstd")])
def test_a_thousand_members_are_one_picture(pack: Callable[[bytes], bytes]) -> None:
    assert fetched(b"".join(pack(PICTURE[at : at + 10]) for at in range(0, 10_000, 10)), "gzip") == PICTURE[:10_000]


def test_layers_that_unpack_to_nothing_are_not_unpacked_for_nobody() -> None:
    """A kilobyte of gzip may hold a megabyte of deflate's empty blocks: work without a byte to count."""
    nothing = gzip.compress(gzip.compress(b"x")[:10] + b"\x00\x00\x00\xff\xff" * 180_000)
    asked = itertools.count()
    leaving = Deadline(math.inf, abandoned=lambda: next(asked) > 20)
    with (
        BadServer(answer_with(http_answer(nothing))) as server,
        pytest.raises(errors.DeadlineExceeded, match="gone"),
    ):
        make_fetcher().fetch(server.url(), deadline=leaving)
