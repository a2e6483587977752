"""Several pictures in one request, each admitted as a single one is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager, ExitStack
from threading import Thread
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
) -> Generator[tuple[Source, Future[Result]]]:
    """Yield each source with its finished future, as soon as it is done.

    Every source in the works has a permit; ``permit`` takes one, or raises Overloaded. The caller holds one, so that a
    request that was let in always gets on; up to ``at_once - 1`` more are taken while they are free, and given back as
    soon as nothing waits for them.
    Closing the generator starts no more sources and waits for those that run.
    """
    waiting = deque(sources)
    running: dict[Future[Result], Source] = {}
    extra: list[ExitStack] = []
    with ExitStack() as everything:
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    if len(running) > len(extra):
                        another = ExitStack()
                        try:
                            another.enter_context(permit())
                        except Overloaded:
                            break
                        extra.append(everything.enter_context(another))
                    source = waiting.popleft()
                    running[_begun(work, source)] = source
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    source = running.pop(future)
                    if extra and not waiting:
                        extra.pop().close()
                    yield source, future
        finally:
            wait(running)


def _begun(work: Callable[[Source], Result], source: Source) -> Future[Result]:
    """Begin with a source: in a thread of its own, or in this one where the system gives no more."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work(source))
        except BaseException as error:  # noqa: BLE001 - whoever reads the future meets it
            future.set_exception(error)

    try:
        Thread(target=run, name="bulk").start()
    except RuntimeError:
        run()
    return future
