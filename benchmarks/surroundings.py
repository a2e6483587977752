"""What a service has around it, for the benchmarks that break it: names, pictures, a cache server, a clock."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from benchmarks.steady_load import PICTURE

NAME_SERVER = "127.0.0.53"
# Shift the wall clock alone, by the seconds in a file. libfaketime 0.9.10 shifts the monotonic clock, too, or breaks
# Python's time.sleep.
SHIFTED_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    FILE *file = clock == CLOCK_REALTIME ? fopen(getenv("CLOCK_SHIFT"), "r") : NULL;
    long seconds = 0;
    if (file) { if (fscanf(file, "%ld", &seconds) == 1) now->tv_sec += seconds; fclose(file); }
    return result;
}
"""


class NameServer(threading.Thread):
    """A DNS server that says 127.0.0.1 to every question, or nothing while it hangs (RFC 1035, 4.1)."""

    def __init__(self) -> None:
        """Take port 53 of an address that is the benchmark's own."""
        super().__init__(daemon=True)
        self.hangs = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((NAME_SERVER, 53))

    def run(self) -> None:
        """Answer questions for IPv4 addresses with one record, others with none."""
        while True:
            query, sender = self._socket.recvfrom(512)
            end = query.index(b"\0", 12) + 5
            found = query[end - 4 : end - 2] == b"\0\1"
            counts = b"\0\1" + (b"\0\1" if found else b"\0\0") + bytes(4)
            record = b"\xc0\x0c\0\1\0\1" + bytes(4) + b"\0\4" + socket.inet_aton("127.0.0.1")
            if not self.hangs:
                self._socket.sendto(query[:2] + b"\x81\x80" + counts + query[12:end] + record * found, sender)


class PictureServer(BaseHTTPRequestHandler):
    """A server of pictures, each path another one."""

    def do_GET(self) -> None:
        """Answer with a picture."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(PICTURE + self.path.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def cache_server(port: int) -> subprocess.Popen[bytes]:
    """Start a Redis that keeps nothing on disk."""
    redis = shutil.which("redis-server") or sys.exit("redis-server is not installed.")
    command = [redis, "--port", str(port), "--save", "", "--loglevel", "warning"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603


def compile_clock(library: Path) -> None:
    """Write the library that a process loads to have its wall clock shifted, by the seconds in the file CLOCK_SHIFT."""
    compiler = shutil.which("cc") or sys.exit("No C compiler (cc) is installed.")
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-o", str(library), "-"]
    subprocess.run(command, input=SHIFTED_CLOCK, text=True, check=True)  # noqa: S603
