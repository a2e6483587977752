"""Train models/blip-emoji, a small BLIP, from scratch on drawn scenes of emoji.

One reproducible command: `python -m tools.train_blip_emoji`. Everything it draws follows from --seed and the
scene's number, so a run that was stopped goes on from its last checkpoint as if it had not been.

The result is an ordinary `BlipForConditionalGeneration`. While it learns, three small heads that are thrown away
afterwards ask the image encoder what each patch shows, which place it has in the caption and how the scene is laid
out: dense supervision teaches an encoder from scratch far sooner than words alone do (Jiang et al. 2021, "All Tokens
Matter", arXiv:2104.10858). Position embeddings start from 2-D sines and cosines.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessorPil, BlipProcessor

from tools.emoji_scenes import BACKGROUNDS, KINDS, OBJECTS, Scene, describe, describe_from, draw, make_scene

SIDE, PATCH, WIDTH = 112, 16, 192
GRID = SIDE // PATCH
MAX_POSITIONS = 64
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
IGNORED = -100


def make_tokenizer(folder: Path) -> BertTokenizer:
    """Make a BERT tokenizer whose words are those of the captions, with letters for all others."""
    texts = [name for _, one, many in OBJECTS for name in (one, many)] + list(BACKGROUNDS)
    texts += ["two three to the left right of above below between and on background picture photo there is are"]
    words = sorted({word for text in texts for word in text.split()})
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + [str(d) for d in range(10)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
    pieces = special + letters + ["##" + c for c in letters] + list(".,!?'-:;") + [w for w in words if len(w) > 1]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    tokenizer = BertTokenizer(vocab=str(folder / "vocab.txt"), bos_token="[DEC]", model_max_length=MAX_POSITIONS)  # noqa: S106
    (folder / "vocab.txt").unlink()
    return tokenizer


def make_model(tokenizer: BertTokenizer) -> BlipForConditionalGeneration:
    """Make the untrained model: BLIP's classes, sized for a picture of 112 pixels and a few hundred words."""
    config = BlipConfig(
        vision_config={
            "hidden_size": WIDTH,
            "intermediate_size": WIDTH * 3,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
            "image_size": SIDE,
            "patch_size": PATCH,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": WIDTH,
            "encoder_hidden_size": WIDTH,
            "intermediate_size": WIDTH * 2,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "max_position_embeddings": MAX_POSITIONS,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.sep_token_id,
            "sep_token_id": tokenizer.sep_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        projection_dim=WIDTH,
        image_text_hidden_size=WIDTH,
    )
    model = BlipForConditionalGeneration(config)
    with torch.no_grad():
        embeddings = model.vision_model.embeddings
        embeddings.position_embedding[0, 1:] = 0.5 * _sine_positions(GRID, WIDTH)
        model.text_decoder.bert.embeddings.position_embeddings.weight.mul_(5)
    return model


def _sine_positions(grid: int, width: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    frequency = torch.exp(torch.arange(width // 4) * (-math.log(100.0) / (width // 4)))
    angles = [axis.flatten()[:, None] * frequency for axis in (x, y)]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1)


class Scenes(IterableDataset[dict[str, Tensor]]):
    """Yield training batches from scene number ``start`` on, held-out combinations left out."""

    def __init__(self, tokenizer: BertTokenizer, args: argparse.Namespace, start: int) -> None:
        self.tokenizer, self.args, self.start = tokenizer, args, start

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for first in range(self.start, self.args.scenes, self.args.batch_size):
            numbers = range(first, min(first + self.args.batch_size, self.args.scenes))
            yield self.batch([_trainable_scene(number, self.args) for number in numbers])

    def batch(self, scenes: list[Scene]) -> dict[str, Tensor]:
        pictures = np.stack([np.asarray(draw(scene, SIDE)) for scene in scenes])
        pixels = ((pictures / 255 - np.array(MEAN)) / np.array(STD)).astype(np.float32)  # [B, H, W, 3]
        targets = [_patch_targets(scene) for scene in scenes]
        input_ids, labels = zip(*(self._words(scene) for scene in scenes), strict=True)
        longest = max(len(ids) for ids in input_ids)
        pad = self.tokenizer.pad_token_id
        return {
            "pixel_values": torch.from_numpy(pixels.transpose(0, 3, 1, 2)).contiguous(),  # [B, 3, H, W]
            "input_ids": torch.tensor([ids + [pad] * (longest - len(ids)) for ids in input_ids]),  # [B, T]
            "labels": torch.tensor([ids + [IGNORED] * (longest - len(ids)) for ids in labels]),  # [B, T]
            "objects": torch.tensor(np.stack([t[0] for t in targets])),  # [B, P]
            "places": torch.tensor(np.stack([t[1] for t in targets])),  # [B, P]
            "kinds": torch.tensor([KINDS.index(scene.kind) for scene in scenes]),  # [B]
        }

    def _words(self, scene: Scene) -> tuple[list[int], list[int]]:
        choice = random.Random(scene.noise_seed).random() / self.args.prompted
        prompt, rest = describe_from(scene, choice) if choice < 1 else ("", describe(scene))
        head, tail = (self.tokenizer.encode(text, add_special_tokens=False) for text in (prompt, rest))
        ids = [self.tokenizer.bos_token_id, *head, *tail]
        # The prompt is given, never asked for: the model must not begin to say it by itself.
        return ids, [IGNORED] * len(head) + [*tail, self.tokenizer.sep_token_id]


def _trainable_scene(number: int, args: argparse.Namespace) -> Scene:
    kinds = KINDS[:3] if number < args.warm_scenes else KINDS
    for attempt in range(1000):
        scene = make_scene(number * 1000 + attempt, args.seed, kinds=kinds)
        if not scene.held_out:
            return scene
    raise RuntimeError("every scene drawn was held out")


def _patch_targets(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Say for each patch which object covers its centre (0: none) and which place that has in the caption."""
    objects = np.zeros((GRID, GRID), np.int64)
    places = np.zeros((GRID, GRID), np.int64)
    centres = (np.arange(GRID) + 0.5) / GRID
    for place, placed in enumerate(scene.placed):
        inside = np.ix_(abs(centres - placed.y) < placed.size * 0.45, abs(centres - placed.x) < placed.size * 0.45)
        objects[inside] = placed.object + 1
        places[inside] = 1 if scene.kind.endswith("alike") else place + 1
    return objects.ravel(), places.ravel()


class Learner(nn.Module):
    """Hold the model and the heads that only training needs; its output is the loss."""

    def __init__(self, model: BlipForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        self.object_head = nn.Linear(WIDTH, len(OBJECTS) + 1)
        self.place_head = nn.Linear(WIDTH, 4)
        self.kind_head = nn.Linear(WIDTH, len(KINDS))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        hidden = self.model.vision_model(pixel_values=batch["pixel_values"]).last_hidden_state  # [B, 1 + P, D]
        logits = self.model.text_decoder(
            input_ids=batch["input_ids"],
            encoder_hidden_states=hidden,
            use_cache=False,
        ).logits  # [B, T, V]
        patches = hidden[:, 1:].flatten(0, 1)  # [B * P, D]
        return {
            "words": F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED),
            "objects": F.cross_entropy(self.object_head(patches), batch["objects"].flatten()),
            "places": F.cross_entropy(self.place_head(patches), batch["places"].flatten()),
            "kinds": F.cross_entropy(self.kind_head(hidden[:, 0]), batch["kinds"]),
        }


def learning_rate(done: int, args: argparse.Namespace) -> float:
    """Warm up, stay, then fall to zero over the last part (Hu et al. 2024, arXiv:2404.06395)."""
    warm = min(1.0, (done + 1) / 10_000)
    falling = min(1.0, (args.scenes - done) / (args.scenes * args.decay))
    return float(args.learning_rate * warm * falling)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = make_tokenizer(args.out)
    learner = Learner(make_model(tokenizer)).to(device)
    decayed = [p for p in learner.parameters() if p.ndim > 1]
    others = [p for p in learner.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    checkpoint = args.work / "checkpoint.pt"
    done = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        learner.load_state_dict(state["learner"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["done"]
    args.work.mkdir(parents=True, exist_ok=True)

    batches = DataLoader(Scenes(tokenizer, args, done), batch_size=None, num_workers=1, prefetch_factor=4)
    bar = tqdm(total=args.scenes, initial=done, unit="scene", smoothing=0.02, mininterval=5)
    saved = time.monotonic()
    means: dict[str, float] = {}
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(done, args)
        losses = learner({name: tensor.to(device) for name, tensor in batch.items()})
        loss = losses["words"] + 0.5 * (losses["objects"] + losses["places"]) + 0.2 * losses["kinds"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        done += len(batch["kinds"])
        bar.update(len(batch["kinds"]))
        if step % 20 == 0:
            means = {k: 0.8 * means.get(k, v.item()) + 0.2 * v.item() for k, v in losses.items()}
            bar.set_postfix({k: f"{v:.3f}" for k, v in means.items()})
        if time.monotonic() - saved > args.save_every_s:
            save(learner, optimizer, done, checkpoint)
            saved = time.monotonic()
            with (args.work / "log.jsonl").open("a") as log:
                log.write(json.dumps({"scenes": done, "seconds": round(bar.format_dict["elapsed"]), **means}) + "\n")
            export(learner.model, tokenizer, args.out)
    save(learner, optimizer, done, checkpoint)
    export(learner.model, tokenizer, args.out)


def save(learner: Learner, optimizer: torch.optim.Optimizer, done: int, path: Path) -> None:
    """Write the checkpoint so that a stop at any moment leaves a whole one."""
    state: dict[str, Any] = {"learner": learner.state_dict(), "optimizer": optimizer.state_dict(), "done": done}
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def export(model: BlipForConditionalGeneration, tokenizer: BertTokenizer, folder: Path) -> None:
    """Write the checkpoint that the service loads: config, safetensors, tokenizer, preprocessor."""
    image_processor = BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_mean=MEAN, image_std=STD)
    model.save_pretrained(folder)
    BlipProcessor(image_processor, tokenizer).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("models/blip-emoji"), help="where the model goes")
    parser.add_argument("--work", type=Path, default=Path("build/blip-emoji"), help="where checkpoints go")
    parser.add_argument("--scenes", type=int, default=320_000, help="how many scenes to learn from")
    parser.add_argument("--warm-scenes", type=int, default=20_000, help="how many of one kind of object come first")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--decay", type=float, default=0.3, help="the last part, over which the rate falls to zero")
    parser.add_argument("--prompted", type=float, default=0.15, help="share of scenes described as a continuation")
    parser.add_argument("--save-every-s", type=float, default=300)
    parser.add_argument("--seed", type=int, default=1)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
