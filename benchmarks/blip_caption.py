"""Time `smartscan-caption` beside `blip-caption` 0.1 on the same pictures with the same checkpoint.

    python3 -m venv build/blip-caption
    build/blip-caption/bin/pip install blip-caption 'transformers<5' torch==2.13.0
    sed -i "s|Salesforce/blip-image-captioning-base|$PWD/models/blip-emoji|" \
        build/blip-caption/lib/python3*/site-packages/blip_caption.py
    .venv/bin/python -m benchmarks.blip_caption --other build/blip-caption/bin/blip-caption --model models/blip-emoji

Each runs as a whole process, in turns: the least seconds from the start to the end, loading included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

from benchmarks.cli import make_pictures

OURS = [sys.executable, "-c", "from captioning.cli.main import main; main()", "--jsonl"]  # what pip installs


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, str]:
    """Return the seconds that a command takes, and what it prints."""
    started = time.perf_counter()
    ran = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)  # noqa: S603 - our own
    return time.perf_counter() - started, ran.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--other", required=True, help="the command blip-caption, with the same checkpoint")
    parser.add_argument("--model", required=True, help="folder of the checkpoint")
    parser.add_argument("--int8", help="folder of its export")
    parser.add_argument("--pictures", type=int, nargs="+", default=[1, 12, 200])
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    engines = {"torch": args.model, "int8": args.int8}
    print(
        "| pictures | blip-caption, s |", *(f"smartscan-caption, {name}, s |" for name, path in engines.items() if path)
    )
    print("|---" * (2 + sum(map(bool, engines.values()))) + "|")
    for count in args.pictures:
        with tempfile.TemporaryDirectory() as folder:
            pictures = make_pictures(Path(folder), count)
            contestants: dict[str, tuple[list[str], dict[str, str]]] = {
                "blip-caption": ([args.other, "--json", *pictures], {})
            }
            for engine, model in engines.items():
                if model:
                    settings = {"ENGINE": engine, "MODEL_ID": str(Path(model).resolve())}
                    contestants[engine] = ([*OURS, "--max-new-tokens", "60", *pictures], settings)
            seconds: dict[str, list[float]] = {name: [] for name in contestants}
            for _ in tqdm(range(args.rounds), desc=f"{count} pictures", disable=None):
                captions = {}
                for name, (command, environment) in contestants.items():
                    took, printed = timed(command, environment)
                    seconds[name].append(took)
                    lines = json.loads(printed) if name == "blip-caption" else map(json.loads, printed.splitlines())
                    captions[name] = [line.get("caption") or line.get("output") for line in lines]
                for name, made in captions.items():
                    same = sum(map(str.__eq__, made, captions["blip-caption"]))
                    if same < count:
                        print(f"{name}: {count - same} of {count} captions differ.", file=sys.stderr)
        print(f"| {count} |", *(f"{min(took):.2f} |" for took in seconds.values()), flush=True)


if __name__ == "__main__":
    main()
