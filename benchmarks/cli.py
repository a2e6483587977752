"""Measure how busy `flask caption` keeps the model: its pictures a second over those of the model alone.

    .venv/bin/python -m benchmarks.cli --model models/blip-emoji --int8 FOLDER    # what `make export` made of it

The sample pictures, encoded anew into distinct files, go through all that the command does after loading the model;
and the same engine captions the same pictures, already preprocessed, in full batches. Both take turns every few
pictures, and who is first alternates too, so that whatever else the machine does meets both. Their sums are compared.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from captioning.cli.offline import OfflineRun
from captioning.cli.progress import Progress
from captioning.cli.records import Jsonl
from captioning.cli.results_file import Results
from captioning.cli.run import Report
from captioning.model.engine import Engine, Generation, GenerationOptions, Pixels
from captioning.pictures.decoder import open_image
from captioning.pictures.decoders import Decoders
from captioning.settings import Settings
from model_loader import load_engine

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = sorted((ROOT / "models" / "blip-emoji" / "samples").glob("*.jpg"))


def make_pictures(folder: Path, count: int) -> list[str]:
    """Write the samples again and again, each time in another quality."""
    for number in range(count):
        quality = 75 + number // len(SAMPLES) % 25
        Image.open(SAMPLES[number % len(SAMPLES)]).save(folder / f"{number:04}.jpg", quality=quality)
    return [str(path) for path in sorted(folder.iterdir())]


def preprocessed(engine: Timed, sources: list[str], batch: int) -> list[Pixels]:
    """Return the model's input, float32 ``[B, 3, H, W]`` each."""
    size = max(engine.preprocessor.size)
    pixels = [engine.preprocessor(open_image(Path(path).read_bytes(), target_size=size).decode()) for path in sources]
    return [np.stack(pixels[start : start + batch]) for start in range(0, len(pixels), batch)]


class Timed:
    """Pass everything on to an engine; count the seconds that it is at work."""

    def __init__(self, engine: Engine) -> None:
        self.preprocessor = engine.preprocessor
        self.check = engine.check
        self.busy_s = 0.0
        self._caption = engine.caption

    def caption(self, pixel_values: Pixels, options: GenerationOptions) -> Generation:
        started = time.perf_counter()
        generation = self._caption(pixel_values, options)
        self.busy_s += time.perf_counter() - started
        return generation


def run_command(
    engine: Timed, decoders: Decoders, settings: Settings, options: GenerationOptions, sources: list[str]
) -> float:
    """Return the seconds that the command takes for these pictures."""
    progress = Progress(total=len(sources), done=0)
    with tempfile.TemporaryFile() as file:
        results = Results(file, "The results", set())
        report = Report(results, Jsonl({}), progress, sidecars=None, make_page=None, around=("", ""))
        started = time.perf_counter()
        OfflineRun(engine, decoders, settings, options, report=report.add).run(sources)
        took = time.perf_counter() - started
    assert progress.done == len(sources)
    assert not progress.failed
    return took


def run_model(engine: Timed, options: GenerationOptions, batches: list[Pixels]) -> float:
    """Return the seconds that the model alone takes for these batches."""
    started = time.perf_counter()
    for batch in batches:
        engine.caption(batch, options)
    return time.perf_counter() - started


def measure(settings: Settings, sources: list[str], turn: int, rounds: int) -> tuple[float, float, float]:
    """Return the pictures a second of the command and of its model alone, and the share of time the model worked."""
    decoders = Decoders.from_settings(settings)
    decoders.start()
    engine = Timed(load_engine(settings))
    options = GenerationOptions(max_new_tokens=settings.max_new_tokens, num_beams=settings.num_beams)
    command = alone = busy = 0.0
    turns = [sources[start : start + turn] for start in range(0, len(sources), turn)] * rounds
    for number, pictures in enumerate(tqdm(turns, desc=settings.engine, unit="turn", disable=None)):
        batches = preprocessed(engine, pictures, settings.batch_max_size)
        if number % 2:
            alone += run_model(engine, options, batches)
        engine.busy_s = 0.0
        command += run_command(engine, decoders, settings, options, pictures)
        busy += engine.busy_s
        if not number % 2:
            alone += run_model(engine, options, batches)
    count = len(sources) * rounds
    return count / command, count / alone, busy / command


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="folder of a checkpoint, for the torch engine")
    parser.add_argument("--int8", help="folder of its export, for the int8 engine")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--turn", type=int, default=40, help="pictures until the other's turn")
    parser.add_argument("--rounds", type=int, default=3, help="times all pictures")
    args = parser.parse_args()
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        sources = make_pictures(Path(folder), args.pictures)
        print("| engine | command, pictures/s | model alone | ratio | model at work |\n|---|---|---|---|---|")
        for engine, model in (("torch", args.model), ("int8", args.int8)):
            if model:
                settings = Settings.model_validate({"engine": engine, "model_id": model})
                command, alone, busy = measure(settings, sources, args.turn, args.rounds)
                print(f"| {engine} | {command:.3g} | {alone:.3g} | {command / alone:.0%} | {busy:.0%} |", flush=True)


if __name__ == "__main__":
    main()
