"""Give a BLIP checkpoint outliers such as trained vision encoders have, so that quantising it can be tested.

    python -m tools.plant_outliers --model models/blip-emoji --out build/planted --kind hidden --factor 120 --seed 1

Most kinds leave the float32 function what it is: what is written large is read small, what is added is taken away
again. Those named in INEXACT change it; there, what counts is that int8 does as float32 does on the same weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

COUNT = 3  # outliers a place
POSITIONS = "vision_model.embeddings.position_embedding"  # [1, S, D]
POST_NORM = "vision_model.post_layernorm"


class Planter:
    """Change a checkpoint's tensors in place: a method for each kind of outlier."""

    def __init__(self, tensors: dict[str, NDArray[np.float32]], config: Any, factor: float, seed: int) -> None:
        """Take the tensors by name, config.json as read, and how many times as large as the rest outliers are."""
        self._tensors = tensors
        self._factor = factor
        self._mild = max(factor / 10, 1.0)  # where the float32 model must carry what is planted, and stay a model
        self._random = np.random.default_rng(seed)
        self._width = config["vision_config"]["hidden_size"]
        vision, text = (config[f"{tower}_config"]["num_hidden_layers"] for tower in ("vision", "text"))
        self._vision = [f"vision_model.encoder.layers.{layer}." for layer in range(vision)]
        self._text = [f"text_decoder.bert.encoder.layer.{layer}." for layer in range(text)]
        self._cross = [f"{layer}crossattention.self.{part}" for layer in self._text for part in ("key", "value")]

    def channels(self) -> None:
        """Enlarge what LayerNorms of the vision tower write."""
        for layer in self._vision:
            self._enlarge(layer + "layer_norm1", layer + "self_attn.qkv")
            self._enlarge(layer + "layer_norm2", layer + "mlp.fc1")
        self._enlarge(POST_NORM, *self._cross)

    def hidden(self) -> None:
        """Enlarge neurons of the MLPs. A GELU is not linear, so this changes the function."""
        for layer in self._vision:
            self._enlarge(layer + "mlp.fc1", layer + "mlp.fc2")
        for layer in self._text:
            self._enlarge(layer + "intermediate.dense", layer + "output.dense")

    def steady(self) -> None:
        """Let neurons of the MLPs be far above zero always, where a GELU is linear."""
        for layer in self._vision:
            self._lift(layer + "mlp.fc1", [layer + "mlp.fc2"], signs=[1])
        for layer in self._text:
            self._lift(layer + "intermediate.dense", [layer + "output.dense"], signs=[1])

    def values(self) -> None:
        """Enlarge attention's values."""
        for layer in self._vision:
            self._enlarge(layer + "self_attn.qkv", layer + "self_attn.projection", start=2 * self._width)
        for layer in self._text:
            for attention in ("attention", "crossattention"):
                self._enlarge(f"{layer}{attention}.self.value", f"{layer}{attention}.output.dense")

    def queries(self) -> None:
        """Enlarge attention's queries and make its keys as much smaller, or the other way round."""
        for layer in self._vision:
            self._oppose(layer + "self_attn.qkv", layer + "self_attn.qkv", start=self._width)
        for layer in self._text:
            for attention in ("attention", "crossattention"):
                self._oppose(f"{layer}{attention}.self.query", f"{layer}{attention}.self.key")

    def biases(self) -> None:
        """Shift what LayerNorms write, and take it away where it is read, in the decoder from its residual, too."""
        for layer in self._vision:
            self._lift(layer + "layer_norm1", [layer + "self_attn.qkv"])
            self._lift(layer + "layer_norm2", [layer + "mlp.fc1"])
        self._lift(POST_NORM, self._cross)
        read_by = []
        for layer in self._text:
            own, cross = layer + "attention.", layer + "crossattention."
            read_by += [([own + f"self.{part}" for part in ("query", "key", "value")], own + "output.dense")]
            read_by += [([cross + "self.query"], cross + "output.dense")]
            read_by += [([layer + "intermediate.dense"], layer + "output.dense")]
        read_by.append((["text_decoder.cls.predictions.transform.dense"], ""))
        norms = [name.removesuffix("dense") + "LayerNorm" for _, name in read_by[:-1]]
        for norm, (matrices, added) in zip(["text_decoder.bert.embeddings.LayerNorm", *norms], read_by, strict=True):
            self._lift(norm, matrices, added)

    def value_biases(self) -> None:
        """Shift attention's values, and take it away after attention, whose weights add up to 1."""
        for layer in self._vision:
            self._lift(layer + "self_attn.qkv", [layer + "self_attn.projection"], start=2 * self._width)
        for layer in self._text:
            for attention in ("attention", "crossattention"):
                self._lift(f"{layer}{attention}.self.value", [f"{layer}{attention}.output.dense"])

    def tokens(self) -> None:
        """Enlarge some channels of some places of the picture."""
        position = self._tensors[POSITIONS]
        for token in self._some(position.shape[1]):
            position[0, token, self._some(self._width)] += self._factor * np.abs(position).mean()

    def class_token(self) -> None:
        """Enlarge some channels of the class token."""
        embedding = self._tensors["vision_model.embeddings.class_embedding"]
        embedding[..., self._some(self._width)] += self._factor * np.abs(self._tensors[POSITIONS]).mean()

    def positions(self) -> None:
        """Enlarge all position embeddings, by a tenth of the factor."""
        self._tensors[POSITIONS] *= self._mild

    def residual(self) -> None:
        """Shift some channels of all the picture's tokens, which all layers then carry."""
        position = self._tensors[POSITIONS]
        position[..., self._some(self._width)] += self._factor * np.abs(position).mean()

    def patches(self) -> None:
        """Enlarge channels of the patch embedding, by a tenth of the factor."""
        channels = self._some(self._width)
        for part in ("weight", "bias"):
            self._tensors[f"vision_model.embeddings.patch_embedding.{part}"][channels] *= self._mild

    def attended(self) -> None:
        """Enlarge what attention adds to some channels of the residual, by a tenth of the factor."""
        for layer in self._vision:
            channels = self._some(self._width)
            for part in ("weight", "bias"):
                self._tensors[f"{layer}self_attn.projection.{part}"][channels] *= self._mild

    def text_norms(self) -> None:
        """Enlarge what the decoder's LayerNorms write, by a tenth of the factor; its residual carries it."""
        for layer in self._text:
            for norm, matrices in (
                ("attention.output.LayerNorm", ["crossattention.self.query"]),
                ("crossattention.output.LayerNorm", ["intermediate.dense"]),
            ):
                channels = self._some(self._tensors[f"{layer}{norm}.weight"].size)
                for part in ("weight", "bias"):
                    self._tensors[f"{layer}{norm}.{part}"][channels] *= self._mild
                for name in matrices:
                    self._tensors[f"{layer}{name}.weight"][:, channels] /= self._mild

    def _some(self, size: int) -> NDArray[np.int64]:
        return self._random.choice(size, COUNT, replace=False)

    def _enlarge(self, made_by: str, *read_by: str, start: int = 0) -> None:
        """Scale some rows of one tensor, from ``start`` on, and the columns that read them inversely."""
        columns = self._some(self._tensors[f"{read_by[0]}.weight"].shape[1])
        for part in ("weight", "bias"):
            self._tensors[f"{made_by}.{part}"][start + columns] *= self._factor
        for name in read_by:
            self._tensors[f"{name}.weight"][:, columns] /= self._factor

    def _lift(
        self, made_by: str, read_by: Sequence[str], added: str = "", start: int = 0, signs: Sequence[int] = (-1, 1)
    ) -> None:
        """Add to some biases, from ``start`` on, and take away what comes of it; ``added`` goes into the same sum."""
        columns = self._some(self._tensors[f"{read_by[0]}.weight"].shape[1])
        # About how large what is shifted is: a LayerNorm's gain, or the norm of a matrix' row.
        rows = self._tensors[f"{made_by}.weight"].reshape(len(self._tensors[f"{made_by}.bias"]), -1)
        size = self._factor * np.linalg.norm(rows, axis=1).mean()
        lift = (self._random.choice(signs, COUNT) * size).astype(np.float32)
        self._tensors[f"{made_by}.bias"][start + columns] += lift
        for name in read_by:
            self._tensors[f"{name}.bias"] -= self._tensors[f"{name}.weight"][:, columns] @ lift
        if added:
            self._tensors[f"{added}.bias"][columns] -= lift

    def _oppose(self, enlarged: str, reduced: str, start: int = 0) -> None:
        """Scale some rows of one matrix, and those of another, from ``start`` on, inversely; or the other way round."""
        channels = self._some(self._tensors[f"{enlarged}.weight"].shape[1])
        factors = np.power(self._factor, self._random.choice([-1.0, 1.0], COUNT)).astype(np.float32)
        for part, scale in (("weight", factors[:, None]), ("bias", factors)):
            self._tensors[f"{enlarged}.{part}"][channels] *= scale
            self._tensors[f"{reduced}.{part}"][start + channels] /= scale


INEXACT = ("hidden", "steady", "tokens", "class_token", "positions", "residual", "patches", "attended", "text_norms")
KINDS = ("channels", "values", "queries", "biases", "value_biases", *INEXACT)


def plant(model: Path, out: Path, kinds: Collection[str], factor: float, seed: int) -> Path:
    """Copy a checkpoint to ``out`` with outliers of these kinds in every layer; return ``out``."""
    shutil.copytree(model, out, ignore=shutil.ignore_patterns("samples"), dirs_exist_ok=True)
    tensors = load_file(model / "model.safetensors")
    planter = Planter(tensors, json.loads((model / "config.json").read_bytes()), factor, seed)
    for kind in KINDS:
        if kind in kinds:
            getattr(planter, kind)()
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
