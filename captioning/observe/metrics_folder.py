"""The folder through which several workers count together: prometheus_client's multiprocess mode.

Each worker writes its counts to files of its own there, and whichever is scraped adds them all up. prometheus_client
looks for the folder when it is first imported, so this module does not import it.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def make_metrics_folder(base: str | None) -> None:
    """Make an empty folder for this master and the workers that it will start; it goes when the master ends.

    Called again, as when gunicorn reads its configuration anew, it keeps the folder.
    """
    master = os.getpid()
    prefix = f"captioning-metrics-{master}-"
    if Path(os.environ.get(_VARIABLE, "")).name.startswith(prefix):
        return
    folder = tempfile.mkdtemp(prefix=prefix, dir=base)
    os.environ[_VARIABLE] = folder

    def remove() -> None:
        if os.getpid() == master:  # workers inherit what is to be done at exit
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)


def metrics_folder() -> Path | None:
    """Return the folder, or none in a process that counts for itself."""
    folder = os.environ.get(_VARIABLE)
    return Path(folder) if folder else None


def forget_worker(pid: int) -> None:
    """Drop what a worker that ended was holding; what it had counted stays."""
    from prometheus_client.multiprocess import mark_process_dead

    folder = metrics_folder()
    if folder is None:
        return
    mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
    for file in folder.glob(f"*_{pid}.db"):
        if not file.stat().st_size:  # it was killed as it made the file, which nobody could read
            file.unlink()
