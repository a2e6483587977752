"""Export a BLIP captioning checkpoint for the int8 engine, once; afterwards serve it without torch.

    python -m tools.export_int8 --model Salesforce/blip-image-captioning-base --out build/blip-base-int8
    ENGINE=int8 MODEL_ID=build/blip-base-int8 gunicorn wsgi:app

The same checkpoint gives the same bytes every time; the folder prepacked/ in it, which makes starts quick and can be
made anew from the rest at any time, is this machine's own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from captioning.model.hub import ModelLoadError
from captioning.model.int8.manifest import MANIFEST, Manifest
from captioning.model.int8.sessions import prepack
from captioning.model.preprocessor import Preprocessor
from captioning.settings import Settings
from model_loader import local_folder
from tools.int8_graphs import Array, Sizes, Weights, build_decoder, build_encoder

UNUSED = ("position_ids", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias")  # constants and tied copies


class ExportError(Exception):
    """Say in one sentence why a model cannot be exported."""


def export(model_id: str, revision: str | None, out: Path) -> None:
    """Write the export of a checkpoint, given as a folder or by its name on the hub, to the folder ``out``.

    Raises:
        ExportError: it is not a BLIP captioning model, or a file of it is missing or broken.
        ModelLoadError: it cannot be had from the hub.
    """
    folder = local_folder(Settings(model_id=model_id, model_revision=revision))
    config = read_config(folder)
    text, vision = config.text_config, config.vision_config
    sizes = Sizes(
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        vision_width=vision.hidden_size,
        vision_layers=vision.num_hidden_layers,
        vision_heads=vision.num_attention_heads,
        vision_epsilon=vision.layer_norm_eps,
        text_width=text.hidden_size,
        text_layers=text.num_hidden_layers,
        text_heads=text.num_attention_heads,
        text_epsilon=text.layer_norm_eps,
        vocab_size=text.vocab_size,
    )
    preprocessing = read_preprocessing(folder, sizes.image_size)
    checkpoint = _weights_file(folder)
    names, read = open_weights(checkpoint)

    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)  # written last: what was left halfway is no export
    with tqdm(total=sum(not name.endswith(UNUSED) for name in names), unit="tensor") as bar:

        def weights(name: str) -> Array:
            if name not in names:
                raise ExportError(f"{folder} is not a BLIP captioning model: {checkpoint.name} lacks {name}.")
            bar.update()
            return read(name)

        build_encoder(out, sizes, weights)
        build_decoder(out, sizes, weights)
    write_tokenizer(folder, out)
    (out / "preprocessor_config.json").write_text(json.dumps(preprocessing, indent=2, sort_keys=True) + "\n")
    with checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    Manifest(
        source=model_id,
        revision=folder.name if folder.parent.name == "snapshots" else None,
        weights_sha256=digest,
        image_tokens=sizes.image_tokens,
        text_layers=sizes.text_layers,
        text_heads=sizes.text_heads,
        head_width=sizes.head_width,
        max_position_embeddings=text.max_position_embeddings,
        bos_token_id=text.bos_token_id,
        sep_token_id=text.sep_token_id,
    ).write(out)
    prepack(out)


def read_config(folder: Path) -> Any:
    """Read a checkpoint's BlipConfig, with transformers' defaults for what it leaves out.

    Raises:
        ExportError: it is of another model, or asks for what the graphs do not do.
    """
    from transformers import BlipConfig

    path = folder / "config.json"
    if not path.is_file():
        raise ExportError(f"{folder} holds no config.json, so it is not a checkpoint.")
    raw = json.loads(path.read_bytes())
    architecture = (raw.get("architectures") or ["BlipForConditionalGeneration"])[0]
    if raw.get("model_type") != "blip" or architecture != "BlipForConditionalGeneration":
        raise ExportError(
            f"{folder} holds a {raw.get('model_type')} model ({architecture}), and only BLIP captioning models "
            "(BlipForConditionalGeneration) can be exported."
        )
    config: Any = BlipConfig.from_dict(raw)
    text, vision = config.text_config, config.vision_config
    expected = {
        "text_config.hidden_act": (text.hidden_act, "gelu"),
        "vision_config.hidden_act": (vision.hidden_act, "gelu"),
        "tie_word_embeddings": (config.tie_word_embeddings and text.tie_word_embeddings, True),
        "vision_config.image_size": (type(vision.image_size), int),
        "vision_config.patch_size": (type(vision.patch_size), int),
    }
    for name, (value, wanted) in expected.items():
        if value != wanted:
            raise ExportError(f"{path} sets {name} to {value}, and the export knows only {wanted}.")
    return config


def read_preprocessing(folder: Path, image_size: int) -> dict[str, Any]:
    """Return the checkpoint's image processor settings.

    Raises:
        ExportError: they are missing, or are not what the preprocessor does.
    """
    try:
        made = Preprocessor.from_folder(folder)
    except (OSError, ValueError) as error:
        raise ExportError(f"The preprocessing of {folder} cannot be used: {error}.") from error
    if made.size != (image_size, image_size):
        raise ExportError(f"The preprocessing of {folder} makes pictures of {made.size}, the model takes {image_size}.")
    nested = folder / "processor_config.json"
    settings = json.loads(nested.read_bytes()).get("image_processor") if nested.is_file() else None
    return dict(settings or json.loads((folder / "preprocessor_config.json").read_bytes()))


def open_weights(path: Path) -> tuple[set[str], Weights]:
    """Return the names of a checkpoint's tensors and what reads one of them as float32."""
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        stored: Any = safe_open(path, "np")
        return set(stored.keys()), lambda name: stored.get_tensor(name).astype(np.float32)
    import torch

    # Mapped: read a tensor at a time. Weights only: no code in the pickle is run.
    state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return set(state), lambda name: state[name].float().numpy()


def write_tokenizer(folder: Path, out: Path) -> None:
    """Write tokenizer.json, in which everything that transformers does around the tokenizer is said, too."""
    from tokenizers import decoders
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    backend = tokenizer.backend_tokenizer
    if tokenizer.clean_up_tokenization_spaces:
        # transformers.PreTrainedTokenizerBase.clean_up_tokenization
        pairs = [(f" {mark}", mark) for mark in ".?!,"] + [(" ' ", "'")]
        pairs += [(f" {end}", end) for end in ("n't", "'m", "'s", "'ve", "'re")]
        cleaning = [decoders.Replace(spaced, joined) for spaced, joined in pairs]
        backend.decoder = decoders.Sequence([backend.decoder, decoders.Fuse(), *cleaning])
    backend.save(str(out / "tokenizer.json"))


def _weights_file(folder: Path) -> Path:
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    raise ExportError(f"{folder} holds neither model.safetensors nor pytorch_model.bin.")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="hub name or folder of the checkpoint")
    parser.add_argument("--revision", help="commit, tag or branch of a hub model; BLIP-base is pinned")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    try:
        export(args.model, args.revision, args.out)
    except (ExportError, ModelLoadError) as error:
        sys.exit(str(error))
    size = sum(file.stat().st_size for file in args.out.rglob("*") if file.is_file()) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{args.out}: {size:.0f} MB; the export's own memory peaked at {peak:.0f} MiB, mapped files included.")


if __name__ == "__main__":
    main()
