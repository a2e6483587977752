"""What a process gives up for good, before it reads what strangers sent it: files, sockets, processes, memory. Linux.

Each promise is kept twice, by a limit of the kernel and by a filter of system calls, because some containers allow no
filter, and root may lift a limit.

Sources: setrlimit(2), prctl(2), seccomp(2), Linux's asm/unistd_64.h and asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
from contextlib import suppress
from pathlib import Path

_NOBODY = 65_534
_CPU_S = 3600
"""Of all pictures together; whoever takes a codec over can switch off the timer of one picture, but not this limit."""

# From linux/prctl.h.
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SECCOMP_MODE_FILTER = 2

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# What computing, and answering on a socket that is already there, asks of the kernel: numbers on x86_64 and aarch64.
_SYSTEM_CALLS = {
    "read": (0, 63),
    "write": (1, 64),
    "poll": (7, 73),  # ppoll on aarch64
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "setitimer": (38, 103),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "exit": (60, 93),
    "getrusage": (98, 165),
    "futex": (202, 98),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "exit_group": (231, 94),
    "getrandom": (318, 278),
}


class AddressSpace:
    """How much address space the process has grown by since this object was made; it goes on telling in the sandbox."""

    def __init__(self) -> None:
        self._statm = os.open("/proc/self/statm", os.O_RDONLY)
        self.start = self._size()

    def growth(self) -> int:
        """Return bytes."""
        return self._size() - self.start

    def _size(self) -> int:
        return int(os.pread(self._statm, 100, 0).split()[0]) * resource.getpagesize()


def enter(address_space_bytes: int) -> None:
    """Give up all but computing and the file descriptors 0 to 3; stay within this much address space.

    The process must have one thread. It is killed when the thread that started it ends.
    """
    with suppress(OSError):  # where /proc is read-only
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory runs out, this process goes first
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0:
        with suppress(OSError):  # a user namespace may have no such user
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    limits = {
        resource.RLIMIT_AS: address_space_bytes,
        resource.RLIMIT_NOFILE: 4,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: _CPU_S,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # nobody traces it or reads its memory
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _filter_system_calls(libc)


def _filter_system_calls(libc: ctypes.CDLL) -> None:
    """Let every system call but those of the table fail with EPERM; do nothing where no filter is known or allowed."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        return
    column = list(_ARCHITECTURES).index(machine)
    numbers = [row[column] for row in _SYSTEM_CALLS.values()]
    # Classic BPF over struct seccomp_data: its number at 0, its architecture at 4.
    load, jump_if_equal, answer = 0x20, 0x15, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000 | errno.EPERM
    program = [
        (load, 0, 0, 4),
        (jump_if_equal, 1, 0, _ARCHITECTURES[machine]),
        (answer, 0, 0, refuse),
        (load, 0, 0, 0),
        *((jump_if_equal, len(numbers) - place, 0, number) for place, number in enumerate(numbers)),
        (answer, 0, 0, refuse),
        (answer, 0, 0, allow),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *instruction) for instruction in program))
    described = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, described, 0, 0)
