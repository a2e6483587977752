"""What is done to the scores of the next tokens before one is chosen, as transformers does it, in numpy.

Source: transformers/generation/logits_process.py, RepetitionPenaltyLogitsProcessor and NoRepeatNGramLogitsProcessor
(version 5.23), in the order in which `generate` applies them.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from captioning.model.engine import GenerationOptions

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


def log_softmax(logits: Floats) -> Floats:
    """Return the logarithms of the probabilities, along the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def against_repetition(scores: Floats, tokens: Integers, options: GenerationOptions) -> Floats:
    """Return the scores ``[N, V]`` of what may follow the tokens ``[N, T]``, prompts included."""
    penalty, size = options.repetition_penalty, options.no_repeat_ngram_size
    if penalty == 1 and not size:
        return scores
    scores = scores.copy()
    if penalty != 1:
        seen = np.take_along_axis(scores, tokens, axis=1)  # [N, T]
        np.put_along_axis(scores, tokens, np.where(seen < 0, seen * penalty, seen / penalty), axis=1)
    if 0 < size <= tokens.shape[1]:
        windows = sliding_window_view(tokens, size, axis=1)  # [N, W, size]
        begun = tokens[:, None, tokens.shape[1] + 1 - size :]  # [N, 1, size - 1]
        rows, places = np.nonzero((windows[:, :, :-1] == begun).all(axis=2))
        scores[rows, windows[rows, places, -1]] = -np.inf
    return scores
