"""What is named and what is found: each picture once, in an order that does not change, and nothing but files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from captioning.cli.sources import list_sources, read_file
from captioning.errors import ImageNotFound, ImageTooLarge, UnsupportedImage


@pytest.fixture(autouse=True)
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures, other things, folders, and links that lead in circles."""
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.jpg", "deeper/c.webp", "deeper/.git/d.jpg", "z/e.tiff"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "deeper" / "up").symlink_to(tmp_path)
    (tmp_path / "link.jpg").symlink_to(tmp_path / "a.png")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_stands_for_its_own_pictures() -> None:
    assert list_sources(["."], recursive=False) == ["./a.png", "./b.JPG", "./link.jpg"]


def test_pictures_in_formats_that_are_not_read_are_counted_and_nothing_else(tree: Path) -> None:
    for name in ("IMG_1.HEIC", "IMG_2.heic", "a.dng", ".hidden.heic", "deeper/b.jxl"):
        (tree / name).touch()
    notes = list[str]()
    list_sources(["."], recursive=False, note=notes.append)
    assert notes == ["Left out, because these formats are not read: 1 .dng, 2 .heic."]
    list_sources([".", "deeper"], recursive=False, note=notes.append)
    assert notes[1:] == ["Left out, because these formats are not read: 1 .dng, 2 .heic, 1 .jxl."]
    assert list_sources(["IMG_1.HEIC"], recursive=False) == ["IMG_1.HEIC"]


def test_recursive_goes_into_folders_and_round_no_circle() -> None:
    assert list_sources(["."], recursive=True) == ["./a.png", "./b.JPG", "./link.jpg", "./deeper/c.webp", "./z/e.tiff"]


def test_each_is_taken_once_where_it_is_first_named(tree: Path) -> None:
    url = "https://example.com/a.png"
    named = [url, "z/e.tiff", ".", "deeper/../a.png", str(tree / "b.JPG"), url, "notes.txt"]
    assert list_sources(named, recursive=True) == [
        url,
        "z/e.tiff",
        "./a.png",
        "./b.JPG",
        "./link.jpg",
        "./deeper/c.webp",
        "notes.txt",
    ]


def test_a_link_to_a_folder_is_followed_when_it_is_named() -> None:
    assert list_sources(["deeper/up"], recursive=False) == ["deeper/up/a.png", "deeper/up/b.JPG", "deeper/up/link.jpg"]


def test_folders_deeper_than_python_can_recurse_are_searched(tree: Path) -> None:
    here = tree / "deep"
    here.mkdir()
    descriptor = os.open(here, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(os.open("last.jpg", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    found = list_sources(["deep"], recursive=True)
    subprocess.run(["rm", "-r", "deep"], check=True)  # pytest's own cleaning up would recurse
    assert found == ["deep/" + "d/" * 1500 + "last.jpg"]


def test_a_file_is_read_up_to_the_limit() -> None:
    assert read_file("a.png", max_bytes=5) == b"a.png"
    with pytest.raises(ImageTooLarge):
        read_file("a.png", max_bytes=4)


def test_a_huge_file_is_not_read(tree: Path) -> None:
    with (tree / "huge.jpg").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ImageTooLarge):
        read_file("huge.jpg", max_bytes=10)


@pytest.mark.parametrize("name", ["pipe.jpg", "deeper", "/dev/zero"])
def test_what_is_no_file_is_not_opened(name: str) -> None:
    with pytest.raises(UnsupportedImage):
        read_file(name, max_bytes=10)


@pytest.mark.parametrize("name", ["nowhere", "gone.jpg", "", "a\0b", "a.png/x", "n" * 300])
def test_what_cannot_be_read_says_why(name: str) -> None:
    with pytest.raises(ImageNotFound, match=r"^This cannot be read: \w.*\.$"):
        read_file(name, max_bytes=10)
