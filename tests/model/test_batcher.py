"""The queue in front of the model: what waits together goes together, and nothing is computed for nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import numpy as np
import pytest

from captioning.deadline import Deadline
from captioning.errors import DeadlineExceeded, InternalError, ModelFailed, Overloaded, ShuttingDown
from captioning.model.batcher import Batcher
from captioning.model.engine import Generation, GenerationOptions, Pixels
from captioning.model.preprocessor import Preprocessor
from captioning.model.speed import BatchSeconds
from tests.candidates import made_up

GREEDY = GenerationOptions()
BEAMS = GenerationOptions(num_beams=3)


class Counting:
    """An engine that captions a picture with its first pixel, and can be held up."""

    preprocessor = Preprocessor((1, 1), (0.5,) * 3, (0.5,) * 3, 1 / 255)

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.may_go_on = threading.Event()
        self.started = threading.Event()
        self.broken_by_13 = False

    def check(self, options: GenerationOptions) -> None:
        pass

    def caption(self, pixel_values: Pixels, options: GenerationOptions) -> Generation:
        self.started.set()
        self.may_go_on.wait(60)
        captions = [f"{pixels[0, 0, 0]:.0f}" for pixels in pixel_values]
        if "13" in captions or (self.broken_by_13 and not pixel_values.any()):
            raise ZeroDivisionError
        self.batches.append(captions)
        return Generation([made_up(caption) for caption in captions], encode_s=0.25, decode_tokens_s=0.5)


def picture(number: int) -> Pixels:
    return np.full((3, 1, 1), number, np.float32)


@pytest.fixture
def engine() -> Counting:
    return Counting()


@pytest.fixture
def batcher(engine: Counting) -> Iterator[Batcher]:
    batcher = Batcher(max_batch_size=4)
    thread = threading.Thread(target=batcher.run, args=(engine,))
    thread.start()
    yield batcher
    engine.may_go_on.set()
    batcher.close()
    thread.join(60)
    assert not thread.is_alive()


def hold_up(batcher: Batcher, engine: Counting) -> None:
    batcher.submit(picture(0), GREEDY, Deadline.after(60))
    assert engine.started.wait(60)


def test_pictures_that_wait_share_a_batch(batcher: Batcher, engine: Counting) -> None:
    hold_up(batcher, engine)
    futures = [batcher.submit(picture(n), GREEDY, Deadline.after(60)) for n in range(1, 7)]
    engine.may_go_on.set()
    assert [future.result(60).candidates[0].text for future in futures] == ["1", "2", "3", "4", "5", "6"]
    assert engine.batches == [["0"], ["1", "2", "3", "4"], ["5", "6"]]


def test_only_equal_options_share_a_batch_and_order_is_kept(batcher: Batcher, engine: Counting) -> None:
    hold_up(batcher, engine)
    futures = [batcher.submit(picture(n), BEAMS if n % 2 else GREEDY, Deadline.after(60)) for n in range(1, 5)]
    engine.may_go_on.set()
    assert [future.result(60).candidates[0].text for future in futures] == ["1", "2", "3", "4"]
    assert engine.batches == [["0"], ["1", "3"], ["2", "4"]]


def test_the_model_sees_neither_late_nor_cancelled_work(batcher: Batcher, engine: Counting) -> None:
    hold_up(batcher, engine)
    late_deadline = Deadline.after(0.2).in_line()
    late = batcher.submit(picture(1), GREEDY, late_deadline)
    unwanted = batcher.submit(picture(2), GREEDY, Deadline.after(60))
    wanted = batcher.submit(picture(3), GREEDY, Deadline.after(60))
    assert unwanted.cancel()
    while True:
        try:
            late_deadline.check()
        except Overloaded:
            break
    engine.may_go_on.set()
    assert wanted.result(60).candidates[0].text == "3"
    with pytest.raises(Overloaded):
        late.result(60)
    assert engine.batches == [["0"], ["3"]]


def test_the_model_does_not_see_work_whose_client_has_gone(batcher: Batcher, engine: Counting) -> None:
    hold_up(batcher, engine)
    gone = threading.Event()
    later = Deadline.after(60).at
    unwanted = [batcher.submit(picture(n), GREEDY, Deadline(later, abandoned=gone.is_set)) for n in range(1, 4)]
    wanted = batcher.submit(picture(4), GREEDY, Deadline.after(60))
    gone.set()
    engine.may_go_on.set()
    assert wanted.result(60).candidates[0].text == "4"
    for future in unwanted:
        with pytest.raises(DeadlineExceeded, match="the client has gone"):
            future.result(60)
    assert engine.batches == [["0"], ["4"]]


def test_what_a_batch_took_comes_with_its_captions_and_is_told_once(engine: Counting) -> None:
    told: list[Generation] = []
    batcher = Batcher(max_batch_size=2, on_batch=told.append)
    futures = [batcher.submit(picture(n), GREEDY, Deadline.after(60)) for n in range(3)]
    assert batcher.waiting == 3
    batcher.close()
    engine.may_go_on.set()
    batcher.run(engine)
    assert batcher.waiting == 0
    assert [[best.text for best, *_ in generation.candidates] for generation in told] == [["0", "1"], ["2"]]
    captioned = [future.result(0) for future in futures]
    assert [one.batch_size for one in captioned] == [2, 2, 1]
    assert {(one.encode_s, one.decode_tokens_s) for one in captioned} == {(0.25, 0.5)}


class Clock:
    """A clock that goes on only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Timed(Counting):
    """An engine whose batches take the time that it is told, on a clock of its own."""

    def __init__(self, clock: Clock, seconds: Callable[[int], float]) -> None:
        super().__init__()
        self.may_go_on.set()
        self._clock = clock
        self._seconds = seconds

    def caption(self, pixel_values: Pixels, options: GenerationOptions) -> Generation:
        self._clock.now += self._seconds(len(pixel_values))
        return super().caption(pixel_values, options)


def test_a_picture_that_would_be_done_in_time_is_taken() -> None:
    """One runs and takes 0.5 s: whoever has 1.6 s is done by then, however large a batch could be."""
    clock = Clock()
    speed = BatchSeconds()
    speed.learn(1, 0.5)
    batcher = Batcher(max_batch_size=64, speed=speed, clock=clock)
    batcher.submit(picture(1), GREEDY, Deadline.after(60))
    assert batcher.expected_wait_s(GREEDY) == pytest.approx(0.5 * 2**0.5)  # both in one batch
    batcher.check_wait(Deadline.after(1.6), GREEDY)
    with pytest.raises(Overloaded):
        batcher.check_wait(Deadline.after(0.6), GREEDY)


def test_what_has_run_of_a_batch_is_not_waited_for_again(engine: Counting) -> None:
    clock = Clock()
    speed = BatchSeconds()
    speed.learn(1, 8.0)
    batcher = Batcher(max_batch_size=1, speed=speed, clock=clock)
    thread = threading.Thread(target=batcher.run, args=(engine,))
    thread.start()
    hold_up(batcher, engine)
    assert batcher.expected_wait_s(GREEDY) == 16
    clock.now += 6
    assert batcher.expected_wait_s(GREEDY) == 10
    clock.now += 6  # half as long again as any before: so will be the next
    assert batcher.expected_wait_s(GREEDY) == 12
    clock.now += 3600  # the machine stood still
    assert batcher.expected_wait_s(GREEDY) == 32
    engine.may_go_on.set()
    batcher.close()
    thread.join(60)


@pytest.mark.parametrize("options", [[GREEDY], [GREEDY, BEAMS]])
@pytest.mark.parametrize("at_once", [1, 4])
def test_who_is_late_since_the_model_became_slower_is_told_before_the_deadline(
    monkeypatch: pytest.MonkeyPatch, at_once: int, options: list[GenerationOptions]
) -> None:
    """On one CPU under load, 8 of 31 waited for their deadline in vain; here it has half of it from then on."""
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    speed = BatchSeconds()
    speed.learn(1, 1.0)
    speed.learn(at_once, 1.0 * at_once)
    batcher = Batcher(max_batch_size=at_once, speed=speed, clock=clock)
    told: list[tuple[float, BaseException | None]] = []
    while batcher.expected_wait_s() < 20:
        future = batcher.submit(picture(1), options[batcher.waiting % len(options)], Deadline.after(30))
        future.add_done_callback(lambda done: told.append((clock.now - 100, done.exception())))
    queued = batcher.waiting
    batcher.close()
    batcher.run(Timed(clock, lambda size: 2.0 * size))
    assert len(told) == queued
    assert max(when for when, _ in told) <= 30
    assert {type(error) for _, error in told} == {type(None), Overloaded}
    assert sum(error is None for _, error in told) >= 12  # and not for nothing: 15 would fit
    assert min(when for when, error in told if error) < 15  # long before


def test_who_shares_an_earlier_batch_is_not_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures with other options came before it; the model takes it sooner, beside the first of its own options."""
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    speed = BatchSeconds()
    speed.learn(8, 1.0)
    batcher = Batcher(max_batch_size=8, speed=speed, clock=clock)
    batcher.submit(picture(0), GREEDY, Deadline.after(30))
    for number in range(24):
        batcher.submit(picture(number), BEAMS, Deadline.after(30))
    sharing = batcher.submit(picture(1), GREEDY, Deadline.after(6))
    speed.learn(8, 3.0)  # twice as long as before: the others alone would take until it is late
    batcher.close()
    batcher.run(Timed(clock, lambda size: 2.0))
    assert sharing.result(0)


def test_no_batch_grows_so_large_that_one_of_it_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    speed = BatchSeconds()
    speed.learn(1, 2.0)
    speed.learn(4, 8.0)
    batcher = Batcher(max_batch_size=4, speed=speed, clock=clock)
    futures = [batcher.submit(picture(n), GREEDY, Deadline.after(5 if n == 0 else 30)) for n in range(4)]
    batcher.close()
    engine = Timed(clock, lambda size: 2.0 * size)
    batcher.run(engine)
    assert engine.batches == [["0", "1"], ["2", "3"]]
    assert all(future.exception() is None for future in futures)


def test_pictures_with_other_options_wait_for_batches_of_their_own() -> None:
    speed = BatchSeconds()
    for size in (1, 2, 3, 4):
        speed.learn(size, 1.0)
    batcher = Batcher(max_batch_size=4, speed=speed)
    for number in range(5):
        batcher.submit(picture(number), GREEDY, Deadline.after(3600))
    assert batcher.expected_wait_s(GREEDY) == 2
    assert batcher.expected_wait_s(BEAMS) == 3


def test_batches_grow_where_a_larger_one_takes_no_longer() -> None:
    """Every batch takes 10 s and everybody has 18: a third picture seems too late at first, the eighth not later."""
    clock = Clock()
    speed = BatchSeconds()
    speed.learn(1, 10.0)
    sizes = []
    while 8 not in sizes:
        batcher = Batcher(max_batch_size=8, speed=speed, clock=clock)
        with suppress(Overloaded):
            while batcher.waiting < 8:
                batcher.submit(picture(0), GREEDY, Deadline.after(18))
        sizes.append(batcher.waiting)
        batcher.close()
        batcher.run(Timed(clock, lambda size: 10.0))
    assert sizes == [2, 4, 8]


def test_an_idle_model_takes_what_its_last_speed_would_refuse() -> None:
    """Else one slow batch would be the last one: nothing that runs, nothing that could show a better speed."""
    speed = BatchSeconds()
    speed.learn(1, 1000.0)
    batcher = Batcher(max_batch_size=4, speed=speed)
    batcher.check_wait(Deadline.after(30), GREEDY)
    batcher.submit(picture(0), GREEDY, Deadline.after(30))
    with pytest.raises(Overloaded) as refused:
        batcher.submit(picture(1), GREEDY, Deadline.after(30))
    assert refused.value.retry_after_s == batcher.expected_wait_s(GREEDY)


def test_a_cancelled_picture_leaves_the_queue_at_once(batcher: Batcher, engine: Counting) -> None:
    hold_up(batcher, engine)
    futures = [batcher.submit(picture(n), GREEDY, Deadline.after(60)) for n in range(1, 4)]
    assert batcher.waiting == 3
    assert futures[1].cancel()
    assert batcher.waiting == 2
    engine.may_go_on.set()
    assert [futures[number].result(60).candidates[0].text for number in (0, 2)] == ["1", "3"]


def test_an_error_of_a_batch_is_raised_to_each_as_its_own(batcher: Batcher, engine: Counting) -> None:
    hold_up(batcher, engine)
    futures = [batcher.submit(picture(n), GREEDY, Deadline.after(60)) for n in (13, 1)]
    engine.may_go_on.set()
    first, second = (future.exception(60) for future in futures)
    assert isinstance(first, InternalError)
    assert isinstance(second, InternalError)
    assert first is not second
    assert first.__cause__ is second.__cause__
    assert isinstance(first.__cause__, ZeroDivisionError)
    assert batcher.submit(picture(1), GREEDY, Deadline.after(60)).result(60).candidates[0].text == "1"


def test_an_engine_that_cannot_go_on_ends_the_run_and_all_who_wait(engine: Counting) -> None:
    batcher = Batcher(max_batch_size=1)
    futures = [batcher.submit(picture(n), GREEDY, Deadline.after(60)) for n in (13, 1, 2)]
    engine.may_go_on.set()
    engine.broken_by_13 = True
    with pytest.raises(ZeroDivisionError):
        batcher.run(engine)
    assert [type(future.exception(0)) for future in futures] == [InternalError, ModelFailed, ModelFailed]
    with pytest.raises(ModelFailed):
        batcher.submit(picture(3), GREEDY, Deadline.after(60))
    assert not batcher.has_captioned


def test_who_counts_batches_cannot_end_the_run(engine: Counting) -> None:
    def count(generation: Generation) -> None:
        raise OSError("no space left on device")

    batcher = Batcher(max_batch_size=1, on_batch=count)
    futures = [batcher.submit(picture(n), GREEDY, Deadline.after(60)) for n in (1, 2)]
    batcher.close()
    engine.may_go_on.set()
    batcher.run(engine)
    assert [future.result(0).candidates[0].text for future in futures] == ["1", "2"]


def test_a_closed_batcher_finishes_what_waits(engine: Counting) -> None:
    batcher = Batcher(max_batch_size=4)
    waiting = batcher.submit(picture(1), GREEDY, Deadline.after(60))
    batcher.close()
    with pytest.raises(ShuttingDown):
        batcher.submit(picture(2), GREEDY, Deadline.after(60))
    engine.may_go_on.set()
    batcher.run(engine)
    assert waiting.result(0).candidates[0].text == "1"
