"""Measure models/blip-emoji on scenes whose combinations training never showed, and draw the demo's samples.

    python -m tools.evaluate_blip_emoji            # 1,000 scenes, a table by kind of scene; writes it into the card
    python -m tools.evaluate_blip_emoji --samples  # draws the dozen sample pictures anew

The pictures go through the service's own decoder, preprocessor and engine.
"""

from __future__ import annotations

import argparse
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
from tqdm import tqdm

from captioning.cpus import available_cpus
from captioning.model.engine import GenerationOptions
from captioning.model.torch_engine import TorchEngine
from captioning.pictures.decoder import open_image
from tools.emoji_scenes import KINDS, Scene, describe, draw, make_scene

SIDE = 384
EVALUATION_SEED = 1000  # training draws from seed 1
SAMPLES_SEED = 2000
BATCH = 20
TABLE = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- /table -->)", re.DOTALL)


def held_out_scenes(seed: int) -> Iterator[Scene]:
    """Yield held-out scenes without end, always the same ones for a seed."""
    return (scene for scene in (make_scene(number, seed) for number in count()) if scene.held_out)


def as_jpeg(scene: Scene) -> bytes:
    """Draw a scene as a stranger's picture would come: larger than the model's input, and as a JPEG."""
    buffer = io.BytesIO()
    draw(scene, SIDE).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def evaluate(folder: Path, scenes: int, wrong: Path | None) -> str:
    """Caption held-out scenes and return a table of how many captions are exactly right, by kind of scene."""
    engine = TorchEngine(folder, num_threads=available_cpus())
    right: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    source = held_out_scenes(EVALUATION_SEED)
    mistakes = []
    with tqdm(total=scenes, unit="scene") as bar:
        while seen.total() < scenes:
            batch = [next(source) for _ in range(min(BATCH, scenes - seen.total()))]
            pixels = np.stack([engine.preprocessor(open_image(as_jpeg(scene)).decode()) for scene in batch])
            for scene, (best, *_) in zip(batch, engine.caption(pixels, GenerationOptions()).candidates, strict=True):
                seen[scene.kind] += 1
                right[scene.kind] += best.text == describe(scene)
                if best.text != describe(scene):
                    mistakes.append({"kind": scene.kind, "truth": describe(scene), "caption": best.text})
            bar.update(len(batch))
            bar.set_postfix(exact=f"{right.total() / seen.total():.1%}")
    if wrong:
        wrong.write_text("".join(json.dumps(mistake) + "\n" for mistake in mistakes))
    rows = [(kind, right[kind], seen[kind]) for kind in KINDS] + [("**all**", right.total(), seen.total())]
    lines = [f"| {kind} | {good} | {total} | {good / total:.1%} |" for kind, good, total in rows]
    return "\n".join(["| kind of scene | exactly right | of | share |", "|---|---|---|---|", *lines]) + "\n"


def draw_samples(folder: Path) -> None:
    """Write two held-out scenes of each kind, the first that come, with what they show."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = dict.fromkeys(KINDS, 2)
    truths = {}
    for scene in held_out_scenes(SAMPLES_SEED):
        if wanted[scene.kind]:
            wanted[scene.kind] -= 1
            name = f"{scene.kind.replace(' ', '-')}-{2 - wanted[scene.kind]}.jpg"
            (folder / name).write_bytes(as_jpeg(scene))
            truths[name] = describe(scene)
        if not any(wanted.values()):
            break
    (folder / "captions.json").write_text(json.dumps(truths, indent=2, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, default=Path("models/blip-emoji"))
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--samples", action="store_true", help="draw the sample pictures and stop")
    parser.add_argument("--wrong", type=Path, help="write the mistakes to this file, a line of JSON each")
    args = parser.parse_args()
    if args.samples:
        draw_samples(args.model / "samples")
        return
    table = evaluate(args.model, args.scenes, args.wrong)
    print(table)
    card = args.model / "README.md"
    if card.exists():
        card.write_text(TABLE.sub(lambda _: table, card.read_text()))


if __name__ == "__main__":
    main()
