"""Beam search as transformers does it with its default settings, in numpy.

Source: transformers/generation/utils.py, GenerationMixin._beam_search and what it calls (version 5.23), with
length_penalty 1.0, early_stopping False and one token that ends a caption.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from captioning.model.engine import GenerationOptions
from captioning.model.int8.logits import Floats, Integers, against_repetition, log_softmax

Booleans = NDArray[np.bool_]
Steps = NDArray[np.void]

IMPOSSIBLE = np.float32(-1e9)
_STEP = np.dtype([("token", np.int64), ("log_probability", np.float32)])


@dataclass(frozen=True)
class Beam:
    """A finished caption: its tokens, the end among them if it ended, and each one's log-probability."""

    tokens: list[int]
    log_probabilities: list[float]
    score: float


class BeamSearch:
    """The beams of a batch of pictures; shapes are B pictures, K beams, T tokens of the prompt, N new ones, V words."""

    def __init__(self, prompts: Integers, options: GenerationOptions, *, end: int) -> None:
        """Begin after the prompts ``[B, T]``."""
        pictures, beams, max_new_tokens = len(prompts), options.num_beams, options.max_new_tokens
        self._prompts = prompts
        self._options = options
        self._beams = beams
        self._max_new_tokens = max_new_tokens
        self._end = end
        self._length = 0
        self._running = np.zeros((pictures, beams, max_new_tokens), _STEP)
        self._running["token"] = end
        self._running_scores = np.zeros((pictures, beams), np.float32)
        # All beams are alike at first: only the first one may go on, else the same tokens would be taken K times.
        self._running_scores[:, 1:] = IMPOSSIBLE
        self._finished = self._running.copy()
        self._finished_scores = np.full((pictures, beams), IMPOSSIBLE, np.float32)
        self._is_finished = np.zeros((pictures, beams), np.bool_)
        self._can_improve = np.ones((pictures, 1), np.bool_)
        self.done = False

    def step(self, logits: Floats) -> tuple[Integers, Integers]:
        """Take the logits ``[B, K, V]`` of the next tokens; return the tokens ``[B, K]`` that the beams go on with.

        With them comes, also ``[B, K]``, which of the picture's beams each of them continues.
        """
        vocabulary = logits.shape[2]
        log_probabilities = log_softmax(logits)
        scores = self._against_repetition(log_probabilities) + self._running_scores[:, :, None]
        # Twice as many as there are beams: as many as there are can go on even when all the best ones end here.
        best_scores, best = _largest(scores.reshape(len(logits), -1), 2 * self._beams)  # [B, 2K]
        parents, tokens = best // vocabulary, best % vocabulary
        candidates = _rows(self._running, parents)  # [B, 2K, N]
        now = candidates[:, :, self._length]
        now["token"] = tokens
        now["log_probability"] = np.take_along_axis(log_probabilities.reshape(len(logits), -1), best, axis=1)
        self._length += 1
        ends = (tokens == self._end) | (self._length == self._max_new_tokens)

        self._finish(candidates, best_scores, ends)
        self._running_scores, chosen = _largest(best_scores + ends * IMPOSSIBLE, self._beams)
        self._running = _rows(candidates, chosen)
        # The best running beam's score can only fall, and the length divides it: is that still above the worst kept?
        lowest = self._finished_scores.min(axis=1, keepdims=True)
        worst = np.where(self._is_finished, lowest, IMPOSSIBLE)
        self._can_improve &= np.any(self._running_scores[:, :1] / self._length > worst, axis=1, keepdims=True)
        self.done = not (self._can_improve.any() and not ends.all())
        return np.take_along_axis(tokens, chosen, axis=1), np.take_along_axis(parents, chosen, axis=1)

    def best(self) -> list[list[Beam]]:
        """Return the K captions that each picture's search finished with, the best first."""
        return [
            [self._beam(steps, score) for steps, score in zip(*picture, strict=True)]
            for picture in zip(self._finished, self._finished_scores, strict=True)
        ]

    def _beam(self, steps: Steps, score: np.float32) -> Beam:
        tokens: list[int] = steps["token"].tolist()
        length = tokens.index(self._end) + 1 if self._end in tokens else len(tokens)
        return Beam(tokens[:length], steps["log_probability"][:length].tolist(), float(score))

    def _against_repetition(self, scores: Floats) -> Floats:
        pictures, beams, vocabulary = scores.shape
        prompts = np.repeat(self._prompts, beams, axis=0)
        generated = self._running["token"][:, :, : self._length].reshape(pictures * beams, -1)
        tokens = np.concatenate([prompts, generated], axis=1)  # [B K, T + N]
        return against_repetition(scores.reshape(-1, vocabulary), tokens, self._options).reshape(scores.shape)

    def _finish(self, candidates: Steps, scores: Floats, ends: Booleans) -> None:
        """Keep the best K of the captions that were finished before and those that end now."""
        ends = ends & (np.arange(2 * self._beams) < self._beams)
        kept_out = np.where(ends & self._can_improve, np.float32(0), IMPOSSIBLE)
        scores = scores / np.float32(self._length) + kept_out
        self._finished_scores, kept = _largest(np.concatenate([self._finished_scores, scores], axis=1), self._beams)
        self._finished = _rows(np.concatenate([self._finished, candidates], axis=1), kept)
        self._is_finished = np.take_along_axis(np.concatenate([self._is_finished, ends], axis=1), kept, axis=1)


def _largest(values: Floats, count: int) -> tuple[Floats, Integers]:
    """Return the largest of each row of ``[B, M]``, largest first, and where they stand."""
    candidates = np.argpartition(values, -count, axis=1)[:, -count:]
    order = np.argsort(-np.take_along_axis(values, candidates, axis=1), axis=1, kind="stable")
    places = np.take_along_axis(candidates, order, axis=1)
    return np.take_along_axis(values, places, axis=1), places


def _rows(values: Steps, places: Integers) -> Steps:
    return np.take_along_axis(values, places[:, :, None], axis=1)
