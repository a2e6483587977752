"""Plant outliers in the embedded model, export it, and compare captions and logits on held-out scenes.

    make robustness    # 1,000 scenes a row; ten minutes to an hour

    python -m benchmarks.robustness --scenes 100 --seeds 7
    python -m benchmarks.robustness --only class_token:30 channels+biases:120

Scenes are drawn with a font (Debian: fonts-noto-color-emoji). Prints a table, a row for each kind of outlier, and
fails where a row misses the goal: 99% of the captions identical, logits off by 2% in the median and 10% at worst.
The last column tells of how many scenes the planted float32 model still says what the model says as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import operator
import sys
import tempfile
from pathlib import Path
from statistics import median

from tqdm import tqdm

from benchmarks.fidelity import Comparison, scenes
from benchmarks.server import ROOT
from tools.export_int8 import export
from tools.int8_calibration import PICTURES
from tools.plant_outliers import plant

PLANTED = (
    *("channels:30", "channels:120", "hidden:30", "hidden:120", "values:120", "queries:120"),
    *("biases:120", "value_biases:120", "steady:120", "channels+hidden:120", "channels+hidden+values:120"),
    "channels+values+queries+biases+value_biases:120",
    *("tokens:60", "class_token:2", "positions:15", "residual:2", "patches:40", "attended:40", "text_norms:40"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "blip-emoji", help="folder of a checkpoint")
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--only", nargs="+", default=PLANTED, help="kinds of outliers, and how large: a+b:factor ...")
    parser.add_argument("--calibration", type=Path, default=PICTURES)
    args = parser.parse_args()
    drawn = list(scenes(args.scenes))
    head = "| planted | identical captions | logits error: median | 95% | worst | float32 says what it said |"
    print(f"{head}\n|---|---|---|---|---|---|", flush=True)
    missed = False
    unplanted: list[str] = []
    for seed in args.seeds:
        for kinds, factor in (case.split(":") for case in ("nothing:1", *args.only)):
            with tempfile.TemporaryDirectory() as folder:
                chosen = () if kinds == "nothing" else kinds.split("+")
                planted = plant(args.model, Path(folder) / "planted", chosen, float(factor), seed)
                with contextlib.redirect_stdout(io.StringIO()):
                    export(str(planted), None, Path(folder) / "int8", calibration=args.calibration, accept=True)
                comparison = Comparison(planted, Path(folder) / "int8", 20)
                compared = [comparison.compare(*scene) for scene in tqdm(drawn, unit="scene", leave=False)]
            captions = [one.torch for one in compared]
            unplanted = unplanted or captions
            like = sum(map(operator.eq, captions, unplanted)) / len(captions)
            same = sum(one.first_difference is None for one in compared) / len(compared)
            errors = sorted(one.logits_error for one in compared)
            high = errors[int(0.95 * (len(errors) - 1))]
            cells = f"{same:.1%} | {median(errors):.2%} | {high:.2%} | {errors[-1]:.2%} | {like:.1%}"
            print(f"| {kinds.replace('+', ', ')} x{factor}, seed {seed} | {cells} |", flush=True)
            missed |= same < 0.99 or median(errors) > 0.02 or errors[-1] > 0.1
    sys.exit("A row misses the goal." if missed else 0)


if __name__ == "__main__":
    main()
