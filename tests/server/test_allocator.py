"""The allocator's options reach glibc, unless the environment has its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

# 16 threads hold a block each at the same moment; then glibc tells how many heaps it made for them.
_THREADS = """
import ctypes, os, sys, threading
from captioning.server.allocator import give_memory_back

if sys.argv[1] == "told":
    assert give_memory_back(os.environ, block_bytes=2**17)
together = threading.Barrier(16)

def work():
    block = bytes(200_000)
    together.wait()

threads = [threading.Thread(target=work) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
stream = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, stream)
libc.fflush(stream)
"""

# Blocks that were freed once teach glibc not to map such blocks any more, and the one on top keeps all below it.
_BLOCKS = """
import os, re, sys
from captioning.model.registry import engine_kind
from captioning.server.allocator import give_memory_back
from captioning.settings import Settings

if sys.argv[1] != "untold":
    assert give_memory_back(os.environ, block_bytes=engine_kind(Settings(engine=sys.argv[1])).block_bytes)

def own():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024

before = own()
first = b"x" * (20 << 20)
del first
blocks = [b"x" * (16 << 20) for _ in range(10)]
last = b"x" * 100_000
del blocks
print(own() - before)
"""

glibc_only = pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="the C library is not glibc")


def output(program: str, told: str, **environment: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", program, told]
    return subprocess.run(
        command, cwd=ROOT, env={**inherited, **environment}, capture_output=True, text=True, check=True, timeout=60
    ).stdout


@glibc_only
def test_threads_share_two_heaps() -> None:
    assert output(_THREADS, "told").count("<heap nr") == 2
    assert output(_THREADS, "untold").count("<heap nr") > 2


@glibc_only
@pytest.mark.parametrize("engine", ["torch", "int8"])
def test_pillows_blocks_go_back_to_the_kernel_when_freed(engine: str) -> None:
    assert int(output(_BLOCKS, engine)) < 20
    assert int(output(_BLOCKS, "untold")) > 100


@glibc_only
def test_what_the_environment_says_wins() -> None:
    assert output(_THREADS, "told", MALLOC_ARENA_MAX="3").count("<heap nr") == 3
