"""The folder in which several workers share their counts: prometheus_client's multiprocess mode.

Each worker writes its counts to its own files there, and the worker that is scraped adds them all up. prometheus_client
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
    """Make an empty folder for this master and its workers; it is removed when the master ends.

    Called again, as gunicorn does when it reloads its configuration, it keeps the folder.
    """
    master = os.getpid()
    prefix = f"captioning-metrics-{master}-"
    if Path(os.environ.get(_VARIABLE, "")).name.startswith(prefix):
        return
    folder = tempfile.mkdtemp(prefix=prefix, dir=base)
    os.environ[_VARIABLE] = folder

    def remove() -> None:
        if os.getpid() == master:  # workers inherit this exit handler
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)


def metrics_folder() -> Path | None:
    """Return the folder, or none in a process that keeps its own counts."""
    folder = os.environ.get(_VARIABLE)
    return Path(folder) if folder else None


def forget_worker(pid: int) -> None:
    """Remove the gauges of a worker that ended; its counts stay."""
    from prometheus_client.multiprocess import mark_process_dead

    folder = metrics_folder()
    if folder is None:
        return
    mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
    for file in folder.glob(f"*_{pid}.db"):
        if not file.stat().st_size:  # it was killed while it made the file, which nobody could read
            file.unlink()
