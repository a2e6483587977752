"""Compare the int8 engine with transformers' float32 on anyone's pictures: captions, first difference, logits.

    make fidelity MODEL_ID=models/blip-emoji INT8=build/blip-emoji-int8 IMAGES=models/blip-emoji/samples
    python benchmarks/fidelity.py --model models/blip-emoji --int8 build/blip-emoji-int8 --scenes 1000

The second form draws held-out scenes of the embedded model, which come with the right caption. With `--references`, a
JSON object of what people wrote ({"picture.jpg": ["a cat", "a cat on a sofa"], ...}), both engines get a CIDEr-D score.
Prints a table; writes build/fidelity.json with each picture's captions. The logits are compared along the float32
caption: both are asked what comes next after the same tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from statistics import mean, median

import torch
from tqdm import tqdm
from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.cider import bootstrap_interval, cider_d
from captioning.cpus import available_cpus
from captioning.errors import CaptioningError
from captioning.model.engine import GenerationOptions
from captioning.model.int8.engine import Int8Engine
from captioning.model.torch_engine import load_model
from captioning.pictures.decoder import open_image
from tools.int8_calibration import refer
from tools.int8_fidelity import logits_error

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Compared:
    """Hold what both engines made of one picture."""

    picture: str
    truth: str | None
    torch: str
    int8: str
    first_difference: int | None  # number of the first word that differs
    logits_error: float  # norm of the difference over the norm, the worst of the caption's tokens


def pictures(folder: Path) -> Iterator[tuple[str, bytes, str | None]]:
    """Yield name, bytes and no truth for each file in the folder."""
    for file in sorted(folder.iterdir()):
        if file.is_file():
            yield file.name, file.read_bytes(), None


def scenes(count: int) -> Iterator[tuple[str, bytes, str | None]]:
    """Yield held-out scenes, those that the embedded model is evaluated on, with their captions."""
    from tools.emoji_scenes import describe
    from tools.evaluate_blip_emoji import EVALUATION_SEED, as_jpeg, held_out_scenes

    for number, scene in zip(range(count), held_out_scenes(EVALUATION_SEED), strict=False):
        yield f"scene {number}", as_jpeg(scene), describe(scene)


class Comparison:
    """Run both on the same pictures, greedily."""

    def __init__(self, model: Path, int8: Path, max_new_tokens: int) -> None:
        torch.set_num_threads(available_cpus())
        self._options = GenerationOptions(max_new_tokens=max_new_tokens)
        self._int8 = Int8Engine(int8, num_threads=available_cpus())
        self._model = load_model(model)
        self._tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)

    def compare(self, name: str, data: bytes, truth: str | None) -> Compared:
        """Caption one picture with both."""
        opened = open_image(data, target_size=max(self._int8.preprocessor.size))
        pixels = self._int8.preprocessor(opened.decode())[None]  # [1, 3, H, W]
        reference = refer(self._model, self._tokenizer, pixels, self._options.max_new_tokens)
        [(best, *_)] = self._int8.caption(pixels, self._options).candidates
        pairs = zip_longest(reference.caption.split(), best.text.split())
        difference = next((place for place, (a, b) in enumerate(pairs) if a != b), None)
        return Compared(
            name, truth, reference.caption, best.text, difference, logits_error(self._int8, pixels, reference)
        )


def read_references(file: Path) -> dict[str, list[str]]:
    """Read what people wrote: for each picture's name a caption, or several."""
    return {name: [one] if isinstance(one, str) else one for name, one in json.loads(file.read_bytes()).items()}


def report(compared: list[Compared], references: Mapping[str, list[str]]) -> str:
    """Word the result as a Markdown table."""
    same = sum(one.first_difference is None for one in compared)
    places = [one.first_difference for one in compared if one.first_difference is not None]
    errors = [one.logits_error for one in compared]
    rows = [
        ("pictures", f"{len(compared)}"),
        ("identical captions", f"{same} ({same / len(compared):.1%})"),
        ("first different word, median of those that differ", f"{median(places) + 1:.0f}" if places else "none"),
        ("relative error of the logits, median and worst", f"{median(errors):.2%}, {max(errors):.2%}"),
    ]
    if all(one.truth for one in compared):
        for engine in ("torch", "int8"):
            right = sum(getattr(one, engine) == one.truth for one in compared)
            rows.append((f"exactly right, {engine}", f"{right} ({right / len(compared):.1%})"))
    if described := [one for one in compared if one.picture in references]:
        float32 = cider_d({one.picture: one.torch for one in described}, references)
        int8 = cider_d({one.picture: one.int8 for one in described}, references)
        differences = [int8[name] - float32[name] for name in int8]
        low, high = bootstrap_interval(differences)
        rows += [
            ("pictures with references", f"{len(described)}"),
            ("CIDEr-D, torch", f"{mean(float32.values()):.3f}"),
            ("CIDEr-D, int8", f"{mean(int8.values()):.3f}"),
            ("int8 less torch, with its 95% interval", f"{mean(differences):+.3f} ({low:+.3f} to {high:+.3f})"),
        ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--int8", type=Path, required=True, help="folder of its export")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", type=Path, help="folder of pictures; what is none is passed over")
    source.add_argument("--scenes", type=int, help="how many held-out scenes to draw")
    parser.add_argument("--references", type=Path, help="JSON: what people wrote of each picture, by its file's name")
    parser.add_argument("--max-new-tokens", type=int, default=20)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "fidelity.json")
    args = parser.parse_args()
    references = read_references(args.references) if args.references else {}
    comparison = Comparison(args.model, args.int8, args.max_new_tokens)
    source_of_pictures = list(pictures(args.images)) if args.images else scenes(args.scenes)
    compared = []
    for name, data, truth in tqdm(source_of_pictures, total=args.scenes or None, unit="picture"):
        try:
            compared.append(comparison.compare(name, data, truth))
        except CaptioningError as error:
            print(f"{name}: passed over: {error}", file=sys.stderr)
    if not compared:
        sys.exit("There is no picture among these files.")
    print(report(compared, references))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps([asdict(one) for one in compared], indent=1) + "\n")
    print(f"\nEach picture's captions: {args.out}")


if __name__ == "__main__":
    main()
