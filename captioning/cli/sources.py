"""The pictures that names stand for (files, folders, URLs, lists of them), and the bytes of one."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from captioning.errors import ImageNotFound, UnsupportedImage
from captioning.limits import check_image_bytes, within_limit
from captioning.pictures.formats import ENDINGS

STANDARD_INPUT = "-"
# The commonest formats of pictures that are not read: whoever has a folder of them is told.
_UNREAD = (
    ".heic", ".heif", ".jxl", ".jp2", ".svg", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2",
)  # fmt: skip
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def is_url(source: str) -> bool:
    """Tell a URL, of whatever scheme, from a path."""
    return _URL.match(source) is not None


def list_sources(
    names: Iterable[str], *, recursive: bool, note: Callable[[str], None] = lambda text: None
) -> list[str]:
    """Return the named URLs and files, each once, with a folder's pictures in place of the folder.

    Folders below a named one count only if ``recursive``; ``note`` is told of a named one that holds nothing else, and
    of pictures in formats that are not read. A folder that cannot be listed stays in the list: `read_file` then says
    why.
    """
    found: dict[str, str] = {}
    unread = Counter[str]()
    for name in names:
        is_folder = not is_url(name) and os.path.isdir(name)
        sources = list(_pictures_in(name, unread, recursive=recursive)) if is_folder else [name]
        if is_folder and not sources and not recursive and any(map(os.path.isdir, _entries(name))):
            note(f"{name} holds no pictures but further folders; --recursive goes into them.")
        for source in sources:
            found.setdefault(source if is_url(source) or source == STANDARD_INPUT else os.path.abspath(source), source)
    if unread:
        counts = ", ".join(f"{count} {ending}" for ending, count in sorted(unread.items()))
        note(f"Left out, because these formats are not read: {counts}.")
    return list(found.values())


def read_list(path: str, *, end: bytes) -> list[str]:
    """Return the names in a file, or on standard input, each with this end.

    Raises OSError where it cannot be read.
    """
    if path == STANDARD_INPUT:
        listed = sys.stdin.buffer.read()
    else:
        with open(path, "rb") as file:
            listed = file.read()
    names = [name.rstrip(b"\r") if end == b"\n" else name for name in listed.split(end)]
    return [os.fsdecode(name) for name in names if name]


def read_file(path: str, *, max_bytes: int) -> bytes:
    """Return the content of a regular file, or of standard input.

    Raises:
        ImageNotFound: it cannot be read.
        UnsupportedImage: it is a folder, a pipe or a device.
        ImageTooLarge: it is over the limit.
    """
    try:
        if path == STANDARD_INPUT:
            return within_limit(sys.stdin.buffer.read(max_bytes + 1), max_bytes)
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            os.listdir(path)
        if not stat.S_ISREG(status.st_mode):
            raise UnsupportedImage("This is not a regular file.")
        check_image_bytes(status.st_size, max_bytes)
        with open(path, "rb") as file:
            return within_limit(file.read(max_bytes + 1), max_bytes)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte in it
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ImageNotFound(f"This cannot be read: {reason}.") from error


def _pictures_in(folder: str, unread: Counter[str], *, recursive: bool) -> Iterator[str]:
    """Yield a folder's pictures by name, then those of the folders in it; hidden entries count for neither.

    Pictures in formats that are not read are counted in ``unread``.
    """
    folders = [folder]
    while folders:
        here = folders.pop()
        try:
            entries = _entries(here)
        except OSError:
            yield here
            continue
        for entry in entries:
            # By their names, so that nothing else in a folder is ever opened.
            if entry.name.lower().endswith(ENDINGS) and entry.is_file():
                yield entry.path
            elif entry.name.lower().endswith(_UNREAD):
                unread[os.path.splitext(entry.name)[1].lower()] += 1
        if recursive:
            # A link to a folder is not followed: it may lead back up, and what it leads to has its own name.
            folders += [entry.path for entry in reversed(entries) if entry.is_dir(follow_symlinks=False)]


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """Return what is in a folder by name, hidden entries left out.

    Raises OSError where it cannot be listed.
    """
    with os.scandir(folder) as listing:
        return sorted((entry for entry in listing if entry.name[0] != "."), key=lambda entry: entry.name)
