"""Whether the main loop may write to the log."""

from __future__ import annotations

import os
from contextlib import suppress

from captioning.server.request_threads import can_log


def test_the_main_loop_does_not_write_to_a_log_that_nobody_reads() -> None:
    reader, log = os.pipe()
    os.set_blocking(log, False)
    assert can_log(log)
    with suppress(BlockingIOError):
        while True:
            os.write(log, bytes(4096))
    assert not can_log(log)
    os.read(reader, 65_536)
    assert can_log(log)
    os.close(reader)
    os.close(log)
