"""What the options against repetition cost in time for each token, in both engines, with BLIP-base's vocabulary.

    python -m benchmarks.repetition

The rest of a token's time does not depend on them. Each figure is the least of many runs, so that whatever else the
machine does counts little. Rows are captions that grow together: pictures of a batch times beams.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers.generation.logits_process import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from captioning.model.engine import GenerationOptions
from captioning.model.int8.logits import against_repetition, log_softmax

WORDS = 30_524
TOKENS = 15
PENALTY, SIZE = 1.2, 2


def least_us(run: Callable[[], object], *, runs: int) -> float:
    """Return the microseconds that the quickest of the runs took."""
    taken = []
    for _ in range(runs):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return 1e6 * min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    penalise: Any = RepetitionPenaltyLogitsProcessor(PENALTY)
    ban: Any = NoRepeatNGramLogitsProcessor(SIZE)
    print("| engine | rows | repetitionPenalty, µs | noRepeatNgramSize, µs | probabilities, µs |\n" + "|---" * 5 + "|")
    for rows in (1, 3, 12):
        chance = np.random.default_rng(0)
        logits = chance.normal(0, 3, (rows, WORDS)).astype(np.float32)
        tokens = chance.integers(0, WORDS, (rows, TOKENS))
        scores, ids = torch.from_numpy(logits), torch.from_numpy(tokens)
        penalised = GenerationOptions(repetition_penalty=PENALTY)
        banned = GenerationOptions(no_repeat_ngram_size=SIZE)
        cases: dict[str, list[Callable[[], object]]] = {
            "torch": [partial(penalise, ids, scores), partial(ban, ids, scores), partial(scores.log_softmax, -1)],
            "int8": [
                partial(against_repetition, logits, tokens, penalised),
                partial(against_repetition, logits, tokens, banned),
                partial(log_softmax, logits),
            ],
        }
        for engine, runs in cases.items():
            times = " | ".join(f"{least_us(run, runs=args.runs):.0f}" for run in runs)
            print(f"| {engine} | {rows} | {times} |")


if __name__ == "__main__":
    main()
