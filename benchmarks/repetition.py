"""What the options against repetition cost in time, in both engines and both searches.

    python -m benchmarks.repetition --model build/blip-base --int8 build/blip-base-int8

The cases take turns within each round, so that whatever else the machine does meets all of them; each is divided by
the plain one of the same round, and figures are medians. Options change captions, and with them how many tokens there
are: only what choosing the tokens takes is counted, for each of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.server import ROOT
from captioning.cpus import available_cpus
from captioning.model.engine import Engine, GenerationOptions, Pixels
from captioning.model.int8.engine import Int8Engine
from captioning.model.torch_engine import TorchEngine

OPTIONS: dict[str, dict[str, Any]] = {
    "noRepeatNgramSize 2": {"no_repeat_ngram_size": 2},
    "repetitionPenalty 1.2": {"repetition_penalty": 1.2},
    "both": {"no_repeat_ngram_size": 2, "repetition_penalty": 1.2},
}


def ms_per_token(engine: Engine, picture: Pixels, options: GenerationOptions) -> float:
    """Return the milliseconds that each token of the caption took, the end counted too."""
    generation = engine.caption(picture, options)
    [(best, *_)] = generation.candidates
    return 1000 * generation.decode_tokens_s / (best.tokens + (best.finish_reason == "end"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "build" / "blip-base", help="folder of the checkpoint")
    parser.add_argument("--int8", type=Path, default=ROOT / "build" / "blip-base-int8", help="folder of its export")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=20)
    args = parser.parse_args()
    threads = available_cpus()
    engines: dict[str, Engine] = {
        "torch": TorchEngine(args.model, num_threads=threads),
        "int8": Int8Engine(args.int8, num_threads=threads),
    }
    print("| engine | search | ms a token | " + " | ".join(OPTIONS) + " |\n" + "|---" * (3 + len(OPTIONS)) + "|")
    for name, engine in engines.items():
        side = max(engine.preprocessor.size)
        picture = np.random.default_rng(0).standard_normal((1, 3, side, side), np.float32)
        for beams in (1, 3):
            plain = GenerationOptions(num_beams=beams, max_new_tokens=args.tokens)
            cases = [
                plain,
                *(GenerationOptions(num_beams=beams, max_new_tokens=args.tokens, **more) for more in OPTIONS.values()),
            ]
            taken = [
                [ms_per_token(engine, picture, case) for case in cases] for _ in tqdm(range(args.rounds), leave=False)
            ]
            times = [median(case[number] / case[0] for case in taken[1:]) for number in range(1, len(cases))]
            search = "greedy" if beams == 1 else f"{beams} beams"
            milliseconds = median(case[0] for case in taken[1:])
            print(f"| {name} | {search} | {milliseconds:.2f} | " + " | ".join(f"{one:.3f}" for one in times) + " |")


if __name__ == "__main__":
    main()
