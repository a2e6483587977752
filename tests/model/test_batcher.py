"""The queue in front of the model: what waits together goes together, and nothing is computed for nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from captioning.deadline import Deadline
from captioning.errors import DeadlineExceeded, Overloaded, ShuttingDown
from captioning.model.batcher import Batcher
from captioning.model.engine import Generation, GenerationOptions, Pixels
from captioning.model.preprocessor import Preprocessor

GREEDY = GenerationOptions()
BEAMS = GenerationOptions(num_beams=3)


class Counting:
    """An engine that captions a picture with its first pixel, and can be held up."""

    preprocessor = Preprocessor((1, 1), (0.5,) * 3, (0.5,) * 3, 1 / 255)

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.may_go_on = threading.Event()
        self.started = threading.Event()

    def check(self, options: GenerationOptions) -> None:
        pass

    def caption(self, pixel_values: Pixels, options: GenerationOptions) -> Generation:
        self.started.set()
        self.may_go_on.wait(10)
        captions = [f"{pixels[0, 0, 0]:.0f}" for pixels in pixel_values]
        if "13" in captions:
            raise ZeroDivisionError
        self.batches.append(captions)
        return Generation(captions, encode_s=0.25, decode_tokens_s=0.5, tokens=len(captions))


def picture(number: int) -> Pixels:
    return np.full((3, 1, 1), number, np.float32)


@pytest.fixture
def engine() -> Counting:
    return Counting()


@pytest.fixture
def batcher(engine: Counting) -> Iterator[Batcher]:
    batcher = Batcher(max_batch_size=4, max_waiting=8)
    thread = threading.Thread(target=batcher.run, args=(engine,))
    thread.start()
    yield batcher
    engine.may_go_on.set()
    batcher.close()
    thread.join(10)
    assert not thread.is_alive()


def hold_up(batcher: Batcher, engine: Counting) -> None:
    batcher.submit(picture(0), GREEDY, Deadline.after(10))
    assert engine.started.wait(5)


def test_pictures_that_wait_share_a_batch(batcher: Batcher, engine: Counting) -> None:
    hold_up(batcher, engine)
    futures = [batcher.submit(picture(n), GREEDY, Deadline.after(10)) for n in range(1, 7)]
    engine.may_go_on.set()
    assert [future.result(5).caption for future in futures] == ["1", "2", "3", "4", "5", "6"]
    assert engine.batches == [["0"], ["1", "2", "3", "4"], ["5", "6"]]


def test_only_equal_options_share_a_batch_and_order_is_kept(batcher: Batcher, engine: Counting) -> None:
    hold_up(batcher, engine)
    futures = [batcher.submit(picture(n), BEAMS if n % 2 else GREEDY, Deadline.after(10)) for n in range(1, 5)]
    engine.may_go_on.set()
    assert [future.result(5).caption for future in futures] == ["1", "2", "3", "4"]
    assert engine.batches == [["0"], ["1", "3"], ["2", "4"]]


def test_the_model_sees_neither_late_nor_cancelled_work(batcher: Batcher, engine: Counting) -> None:
    hold_up(batcher, engine)
    late = batcher.submit(picture(1), GREEDY, Deadline.after(0.01))
    unwanted = batcher.submit(picture(2), GREEDY, Deadline.after(10))
    wanted = batcher.submit(picture(3), GREEDY, Deadline.after(10))
    assert unwanted.cancel()
    time.sleep(0.02)
    engine.may_go_on.set()
    assert wanted.result(5).caption == "3"
    with pytest.raises(DeadlineExceeded):
        late.result(5)
    assert engine.batches == [["0"], ["3"]]


def test_the_model_does_not_see_work_whose_client_has_gone(batcher: Batcher, engine: Counting) -> None:
    hold_up(batcher, engine)
    gone = threading.Event()
    later = Deadline.after(10).at
    unwanted = [batcher.submit(picture(n), GREEDY, Deadline(later, abandoned=gone.is_set)) for n in range(1, 4)]
    wanted = batcher.submit(picture(4), GREEDY, Deadline.after(10))
    gone.set()
    engine.may_go_on.set()
    assert wanted.result(5).caption == "4"
    for future in unwanted:
        with pytest.raises(DeadlineExceeded, match="the client has gone"):
            future.result(5)
    assert engine.batches == [["0"], ["4"]]


def test_what_a_batch_took_comes_with_its_captions_and_is_told_once(engine: Counting) -> None:
    told: list[Generation] = []
    batcher = Batcher(max_batch_size=2, max_waiting=8, on_batch=told.append)
    futures = [batcher.submit(picture(n), GREEDY, Deadline.after(10)) for n in range(3)]
    assert batcher.waiting == 3
    batcher.close()
    engine.may_go_on.set()
    batcher.run(engine)
    assert batcher.waiting == 0
    assert [generation.captions for generation in told] == [["0", "1"], ["2"]]
    captioned = [future.result(0) for future in futures]
    assert [one.batch_size for one in captioned] == [2, 2, 1]
    assert {(one.encode_s, one.decode_tokens_s) for one in captioned} == {(0.25, 0.5)}


def test_the_queue_is_bounded(batcher: Batcher, engine: Counting) -> None:
    hold_up(batcher, engine)
    for n in range(8):
        batcher.submit(picture(n), GREEDY, Deadline.after(10))
    with pytest.raises(Overloaded):
        batcher.submit(picture(9), GREEDY, Deadline.after(10))


def test_a_queue_too_long_for_the_deadline_is_refused_at_once(batcher: Batcher, engine: Counting) -> None:
    hold_up(batcher, engine)
    time.sleep(0.2)
    engine.may_go_on.set()
    batcher.submit(picture(1), GREEDY, Deadline.after(10)).result(5)  # 0.2 s a picture, as far as is known
    engine.may_go_on.clear()
    engine.started.clear()
    hold_up(batcher, engine)
    waiting = [batcher.submit(picture(2), GREEDY, Deadline.after(10)) for _ in range(4)]
    with pytest.raises(Overloaded) as refused:
        batcher.submit(picture(3), GREEDY, Deadline.after(0.3))
    assert refused.value.retry_after_s == batcher.expected_wait_s()
    assert 0.5 < batcher.expected_wait_s() < 5
    engine.may_go_on.set()
    assert all(future.result(5).caption == "2" for future in waiting)


def test_an_idle_model_takes_what_its_last_speed_would_refuse(batcher: Batcher, engine: Counting) -> None:
    """Else one slow batch would be the last one: nothing that runs, nothing that could show a better speed."""
    hold_up(batcher, engine)
    time.sleep(0.5)
    engine.may_go_on.set()
    while batcher.expected_wait_s() == 0:
        time.sleep(0.01)
    time.sleep(0.05)
    assert batcher.submit(picture(1), GREEDY, Deadline.after(0.4)).result(5).caption == "1"


def test_an_engine_that_fails_once_goes_on(batcher: Batcher, engine: Counting) -> None:
    engine.may_go_on.set()
    with pytest.raises(ZeroDivisionError):
        batcher.submit(picture(13), GREEDY, Deadline.after(10)).result(5)
    assert batcher.submit(picture(1), GREEDY, Deadline.after(10)).result(5).caption == "1"


def test_the_expected_wait_follows_the_measured_speed(batcher: Batcher, engine: Counting) -> None:
    assert batcher.expected_wait_s() == 0
    hold_up(batcher, engine)
    last = batcher.submit(picture(1), GREEDY, Deadline.after(10))
    time.sleep(0.2)
    engine.may_go_on.set()
    assert last.result(5).queue_s >= 0.2
    assert 0.1 < batcher.expected_wait_s() < 1


def test_a_closed_batcher_finishes_what_waits(engine: Counting) -> None:
    batcher = Batcher(max_batch_size=4, max_waiting=8)
    waiting = batcher.submit(picture(1), GREEDY, Deadline.after(10))
    batcher.close()
    with pytest.raises(ShuttingDown):
        batcher.submit(picture(2), GREEDY, Deadline.after(10))
    engine.may_go_on.set()
    batcher.run(engine)
    assert waiting.result(0).caption == "1"
