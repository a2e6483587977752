"""Beam search as transformers does it with its default settings, in numpy.

Source: transformers/generation/utils.py, GenerationMixin._beam_search and what it calls (version 5.23), with
length_penalty 1.0, early_stopping False and one token that ends a caption.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

IMPOSSIBLE = np.float32(-1e9)


class BeamSearch:
    """Hold the beams of a batch of pictures; shapes are B pictures, K beams, N new tokens, V words."""

    def __init__(self, *, pictures: int, beams: int, max_new_tokens: int, end: int) -> None:
        self._beams = beams
        self._max_new_tokens = max_new_tokens
        self._end = end
        self._length = 0
        self._running = np.full((pictures, beams, max_new_tokens), end, np.int64)
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
        scores = _log_softmax(logits) + self._running_scores[:, :, None]
        # Twice as many as there are beams: as many as there are can go on even when all the best ones end here.
        best_scores, best = _largest(scores.reshape(len(logits), -1), 2 * self._beams)  # [B, 2K]
        parents, tokens = best // vocabulary, best % vocabulary
        candidates = _rows(self._running, parents)  # [B, 2K, N]
        candidates[:, :, self._length] = tokens
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

    def best(self) -> list[list[int]]:
        """Return each picture's best caption so far as tokens, the one that ends it left out."""
        return [[int(token) for token in tokens if token != self._end] for tokens in self._finished[:, 0]]

    def _finish(self, candidates: Integers, scores: Floats, ends: Booleans) -> None:
        """Keep the best K of the captions that were finished before and those that end now."""
        ends = ends & (np.arange(2 * self._beams) < self._beams)
        kept_out = np.where(ends & self._can_improve, np.float32(0), IMPOSSIBLE)
        scores = scores / np.float32(self._length) + kept_out
        self._finished_scores, kept = _largest(np.concatenate([self._finished_scores, scores], axis=1), self._beams)
        self._finished = _rows(np.concatenate([self._finished, candidates], axis=1), kept)
        self._is_finished = np.take_along_axis(np.concatenate([self._is_finished, ends], axis=1), kept, axis=1)


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _largest(values: Floats, count: int) -> tuple[Floats, Integers]:
    """Return the largest of each row of ``[B, M]``, largest first, and where they stand."""
    candidates = np.argpartition(values, -count, axis=1)[:, -count:]
    order = np.argsort(-np.take_along_axis(values, candidates, axis=1), axis=1, kind="stable")
    places = np.take_along_axis(candidates, order, axis=1)
    return np.take_along_axis(values, places, axis=1), places


def _rows(values: Integers, places: Integers) -> Integers:
    return np.take_along_axis(values, places[:, :, None], axis=1)
