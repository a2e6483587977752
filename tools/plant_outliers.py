"""Give a BLIP checkpoint outliers such as trained vision encoders have, so that quantising it can be tested.

    python -m tools.plant_outliers --model models/blip-emoji --out build/planted --kind hidden --factor 120 --seed 1

Channels and values are planted so that the float32 function stays what it is: what is written large is read small.
Hidden neurons and tokens change it a little; what counts is that int8 does as float32 does on the same weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

KINDS = ("channels", "hidden", "values", "tokens")
COUNT = 3  # outliers a place

Tensors = dict[str, NDArray[np.float32]]


def plant(model: Path, out: Path, kinds: Collection[str], factor: float, seed: int) -> Path:
    """Copy a checkpoint to ``out`` with outliers of these kinds in every layer; return ``out``."""
    shutil.copytree(model, out, ignore=shutil.ignore_patterns("samples"), dirs_exist_ok=True)
    config = json.loads((model / "config.json").read_bytes())
    tensors: Tensors = load_file(model / "model.safetensors")
    random = np.random.default_rng(seed)

    def some(size: int) -> NDArray[np.int64]:
        return random.choice(size, COUNT, replace=False)

    def enlarge(made_by: str, *read_by: str, start: int = 0) -> None:
        """Scale some rows of one tensor, from ``start`` on, and the columns that read them inversely."""
        columns = some(tensors[f"{read_by[0]}.weight"].shape[1])
        for part in ("weight", "bias"):
            tensors[f"{made_by}.{part}"][start + columns] *= factor
        for name in read_by:
            tensors[f"{name}.weight"][:, columns] /= factor

    width = config["vision_config"]["hidden_size"]
    vision = [f"vision_model.encoder.layers.{n}." for n in range(config["vision_config"]["num_hidden_layers"])]
    text = [f"text_decoder.bert.encoder.layer.{n}." for n in range(config["text_config"]["num_hidden_layers"])]
    if "channels" in kinds:
        for layer in vision:
            enlarge(layer + "layer_norm1", layer + "self_attn.qkv")
            enlarge(layer + "layer_norm2", layer + "mlp.fc1")
        cross = [f"{layer}crossattention.self.{part}" for layer in text for part in ("key", "value")]
        enlarge("vision_model.post_layernorm", *cross)
    if "hidden" in kinds:
        for layer in vision:
            enlarge(layer + "mlp.fc1", layer + "mlp.fc2")
        for layer in text:
            enlarge(layer + "intermediate.dense", layer + "output.dense")
    if "values" in kinds:
        for layer in vision:
            enlarge(layer + "self_attn.qkv", layer + "self_attn.projection", start=2 * width)
        for layer in text:
            for attention in ("attention", "crossattention"):
                enlarge(f"{layer}{attention}.self.value", f"{layer}{attention}.output.dense")
    if "tokens" in kinds:
        position = tensors["vision_model.embeddings.position_embedding"]  # [1, S, D]
        for token in some(position.shape[1]):
            position[0, token, some(width)] += factor * np.abs(position).mean()
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a checkpoint with safetensors")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kind", choices=KINDS, action="append", required=True, help="may be given several times")
    parser.add_argument("--factor", type=float, default=120)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    plant(args.model, args.out, args.kind, args.factor, args.seed)


if __name__ == "__main__":
    main()
