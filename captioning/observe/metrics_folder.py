"""The folder through which several workers count together: prometheus_client's multiprocess mode, and room for it.

Each worker writes its counts to files of its own there, and whichever is scraped adds them all up. Two things are
different from prometheus_client's defaults:

- Files belong to a slot, not to a process id. A worker takes the first slot that no living worker has, and counts on
  from where the last one stopped. So the folder holds as many files as there were workers at once, whatever ends.
- Space is reserved before it is mapped. Writing to a mapped file that has none is SIGBUS, which ends the process.
"""

from __future__ import annotations

import atexit
import fcntl
import logging
import os
import shutil
import tempfile
from contextlib import suppress
from itertools import count
from pathlib import Path

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import mark_process_dead

log = logging.getLogger("captioning.metrics")

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client reads it
_PREFIX = "captioning-metrics-"
_KINDS = ("counter", "histogram", "gauge_livesum")  # as prometheus_client begins the files' names
_FILE_BYTES = 65_536  # what it would make them, and more than they come to need

_slot = "master"
_locks: list[int] = []  # descriptors that are open for as long as this process lives


class _ReservedFile(MmapedDict):
    """A file of counts whose space is there before it is mapped.

    Raises:
        OSError: there is no space for it, or for it to grow.
    """

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        if not read_mode:
            _reserve(Path(filename))
        super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        if self._used + len(key.encode()) + 40 > self._capacity:
            os.posix_fallocate(self._f.fileno(), 0, 2 * self._capacity)
        super()._init_value(key)  # type: ignore[no-untyped-call]


def writable_folders() -> list[str]:
    """Return the folders for short-lived files that can be written to, those in memory first."""
    folders = []
    for folder in dict.fromkeys(["/dev/shm", *_temporary_folder()]):  # noqa: S108
        try:
            with tempfile.TemporaryFile(dir=folder):
                folders.append(folder)
        except OSError:
            continue
    return folders


def _temporary_folder() -> list[str]:
    try:
        return [tempfile.gettempdir()]
    except FileNotFoundError:
        return []


def make_metrics_folder(bases: list[str]) -> None:
    """Make an empty folder for this master and the workers that it will start; it goes when the master ends.

    It lies in the first of ``bases`` that has room; without any, each worker counts for itself. Called again, as when
    gunicorn reads its configuration anew, it keeps the folder.
    """
    master = os.getpid()
    if Path(os.environ.get(_VARIABLE, "")).name.startswith(f"{_PREFIX}{master}-"):
        return
    os.environ.pop(_VARIABLE, None)
    for base in bases:
        _remove_orphans(Path(base))
        try:
            folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{master}-", dir=base))
        except OSError:
            continue
        try:
            _try_lock(folder)
            for kind in _KINDS:  # as much as one process needs
                _reserve(folder / f"{kind}_{_slot}.db")
            for file in folder.iterdir():
                file.unlink()
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            continue
        break
    else:
        return
    os.environ[_VARIABLE] = str(folder)
    vars(values)["MmapedDict"] = _ReservedFile
    values.ValueClass = values.MultiProcessValue(lambda: _slot)  # type: ignore[no-untyped-call]

    def remove() -> None:
        if os.getpid() == master:  # workers inherit what is to be done at exit
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)


def metrics_folder() -> Path | None:
    """Return the folder, or none in a process that counts for itself."""
    folder = os.environ.get(_VARIABLE)
    return Path(folder) if folder else None


def join_metrics_folder() -> None:
    """Take a slot of the folder, in a worker; where there is no room for that, let the worker count for itself."""
    global _slot
    folder = metrics_folder()
    if folder is None:
        return
    try:
        slot = _take_slot(folder)
        for kind in _KINDS:
            _reserve(folder / f"{kind}_{slot}.db")
    except OSError as error:
        log.warning("There is no room in %s: this worker's metrics are its own (%s).", folder, error)
        del os.environ[_VARIABLE]
        values.ValueClass = values.MutexValue
    else:
        _slot = slot


def forget_dead_workers() -> None:
    """Drop what ended workers were holding; what they had counted stays."""
    for lock in (metrics_folder() or Path("/nowhere")).glob("*.lock"):
        if (descriptor := _try_lock(lock)) is not None:
            mark_process_dead(lock.stem, str(lock.parent))  # type: ignore[no-untyped-call]
            _unlock(descriptor)


def _take_slot(folder: Path) -> str:
    for slot in map(str, count()):
        lock = folder / f"{slot}.lock"
        lock.touch()
        if _try_lock(lock) is not None:
            mark_process_dead(slot, str(folder))  # type: ignore[no-untyped-call]
            return slot
    raise AssertionError("unreachable")


def _reserve(file: Path) -> None:
    """Make a file of zeros, as prometheus_client begins one, whose space is really there; it appears as a whole."""
    if file.exists():
        return
    descriptor, name = tempfile.mkstemp(suffix=".new", dir=file.parent)
    try:
        os.posix_fallocate(descriptor, 0, _FILE_BYTES)
        os.rename(name, file)
    except OSError:
        os.unlink(name)
        raise
    finally:
        os.close(descriptor)


def _remove_orphans(base: Path) -> None:
    """Remove the folders of masters that were killed."""
    for folder in base.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another user's, or another master removes it at this moment
            if (descriptor := _try_lock(folder)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                _unlock(descriptor)


def _try_lock(path: Path) -> int | None:
    """Lock a file or folder until this process ends; return the descriptor, or none where another has the lock.

    Raises:
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    _locks.append(descriptor)
    return descriptor


def _unlock(descriptor: int) -> None:
    _locks.remove(descriptor)
    os.close(descriptor)
