"""ONNX Runtime sessions over an export's graphs, their weights mapped instead of copied.

ONNX Runtime rearranges ("prepacks") weights for the CPU at hand when it loads them, into memory that is each worker's
own. Here the rearranged weights are saved once, next to the export, and mapped from then on: workers share them, and
the kernel can drop their pages and read them again. What is saved fits one version of ONNX Runtime, one kind of CPU
and one export, so it lies in a folder named after all three, and is made anew wherever they are others.
Source: onnxruntime_session_options_config_keys.h.
"""

from __future__ import annotations

import hashlib
import logging
import platform
import shutil
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

import onnxruntime as ort

log = logging.getLogger("captioning.model")

PREPACKED = "prepacked"
_STALE_S = 3600
_ROOT = Path(__file__).resolve().parents[3]


def open_sessions(folder: Path, num_threads: int) -> tuple[ort.InferenceSession, ort.InferenceSession]:
    """Open encoder.onnx and decoder.onnx of an export, prepacked where that can be had."""
    prepacked = folder / PREPACKED / _fingerprint(folder)
    for attempt in range(2):
        if not prepacked.is_dir() and not _prepack(folder, prepacked):
            break
        try:
            return _open(prepacked, num_threads)
        except Exception:
            if attempt:
                raise
            log.warning("The prepacked weights in %s are broken; they are made anew.", prepacked, exc_info=True)
            shutil.rmtree(prepacked, ignore_errors=True)
    return _open(folder, num_threads)


def _open(folder: Path, num_threads: int) -> tuple[ort.InferenceSession, ort.InferenceSession]:
    encoder, decoder = _options(num_threads), _options(num_threads)
    # The encoder's shapes never change: an arena holds just what one picture needs, and spares the page faults of
    # getting it anew each time. The decoder's grow with each token, and its arena would grow with them for ever.
    encoder.enable_cpu_mem_arena = encoder.enable_mem_pattern = True
    return _session(folder / "encoder.onnx", encoder), _session(folder / "decoder.onnx", decoder)


def _prepack(folder: Path, target: Path) -> bool:
    """Have another process save the prepacked graphs as the folder ``target``; tell whether that could be done."""
    # What it takes to save them would stay with this process: freed memory seldom goes back to the kernel.
    command = [sys.executable, "-m", __name__, str(folder.resolve())]
    try:
        finished = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)  # noqa: S603 - it is this module
        code, said = finished.returncode, finished.stderr
    except OSError as error:  # no memory for it, or no process ids
        code, said = 1, str(error)
    if code:
        reason = (said.strip().splitlines() or [f"exit code {code}"])[-1]
        log.warning("The weights cannot be saved prepacked (%s), so each worker holds its own copy of them.", reason)
    return target.is_dir()


def prepack(folder: Path) -> None:
    """Save the graphs of an export prepacked for this machine, and remove those that are not for it.

    Raises:
        OSError: the folder cannot be written.
    """
    target = folder / PREPACKED / _fingerprint(folder)
    if target.is_dir():
        return
    unfinished = target.with_name(f"{target.name}.{uuid.uuid4().hex}")
    unfinished.mkdir(parents=True)
    try:
        for name in ("encoder", "decoder"):
            options = _options(num_threads=1)
            options.optimized_model_filepath = str(unfinished / f"{name}.onnx")
            for key, value in {
                "session.optimized_model_external_initializers_file_name": f"{name}.weights",
                "session.optimized_model_external_initializers_min_size_in_bytes": "4096",
                "session.save_external_prepacked_constant_initializers": "1",
            }.items():
                options.add_session_config_entry(key, value)
            _session(folder / f"{name}.onnx", options)
        with suppress(OSError):  # another worker was faster
            unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    for other in target.parent.iterdir():
        # One with a suffix is being written by another worker, or was left by one that was killed.
        if other != target and (not other.suffix or time.time() - other.stat().st_mtime > _STALE_S):
            shutil.rmtree(other, ignore_errors=True)


def _fingerprint(folder: Path) -> str:
    """Name what prepacked weights fit: the version of ONNX Runtime, the kind of CPU, the graphs and their weights."""
    digest = hashlib.sha256(f"{ort.__version__} {platform.machine()}".encode())
    for name in ("encoder.onnx", "decoder.onnx"):
        digest.update((folder / name).read_bytes())
    digest.update(_cpu().encode())
    return digest.hexdigest()[:16]


def _cpu() -> str:
    """Return what the kernel says of the first CPU's kind."""
    kind = ("vendor_id", "cpu family", "model", "flags", "CPU ", "Features")  # x86's words, then ARM's
    try:
        first, _, _ = Path("/proc/cpuinfo").read_text().partition("\n\n")
    except OSError:
        return platform.processor()
    return "\n".join(line for line in first.splitlines() if line.startswith(kind))


def _options(num_threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    if platform.machine() == "x86_64" and "vnni" not in _cpu():
        # Without VNNI, sums of uint8 x int8 products saturate. This turns weights into uint8: half as fast, and exact.
        options.add_session_config_entry("session.x64quantprecision", "1")
    # Two pools of threads that spin while they wait fight for the CPUs, and use up a container's quota.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # it warns that prepacked weights fit one kind of CPU
    return options


def _session(graph: Path, options: ort.SessionOptions) -> ort.InferenceSession:
    # Fused with the sum before it, layer normalisation was three times as slow.
    return ort.InferenceSession(
        str(graph), options, providers=["CPUExecutionProvider"], disabled_optimizers=["SkipLayerNormFusion"]
    )


if __name__ == "__main__":
    prepack(Path(sys.argv[1]))
