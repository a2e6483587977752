"""Several pictures in one request, each admitted as a single one is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack
from typing import TypeVar

from captioning.errors import Overloaded

Source = TypeVar("Source")
Result = TypeVar("Result")


def each_as_admitted(
    sources: Iterable[Source],
    work: Callable[[Source], Result],
    *,
    permit: Callable[[], AbstractContextManager[None]],
    at_once: int,
) -> Generator[tuple[int, Future[Result]]]:
    """Yield each source's index with its finished future, as soon as it is done; no source is kept for longer.

    Every source in the works has a permit; ``permit`` takes one, or raises Overloaded. The caller holds one, so that a
    request that was let in always gets on; up to ``at_once - 1`` more are taken while they are free, and given back as
    soon as nothing waits for them.
    Closing the generator starts no more sources and waits for those that run.
    """
    waiting = deque(enumerate(sources))
    del sources
    running: dict[Future[Result], int] = {}
    extra: list[ExitStack] = []
    with ExitStack() as everything, ThreadPoolExecutor(at_once, thread_name_prefix="bulk") as pool:
        while waiting or running:
            while waiting and len(running) < at_once:
                if len(running) > len(extra):
                    another = ExitStack()
                    try:
                        another.enter_context(permit())
                    except Overloaded:
                        break
                    extra.append(everything.enter_context(another))
                index, source = waiting.popleft()
                running[pool.submit(work, source)] = index
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                index = running.pop(future)
                if extra and not waiting:
                    extra.pop().close()
                yield index, future
