"""Export a BLIP captioning checkpoint for the int8 engine, once; afterwards serve it without torch.

    python -m tools.export_int8 --model Salesforce/blip-image-captioning-base --out build/blip-base-int8
    ENGINE=int8 MODEL_ID=build/blip-base-int8 gunicorn wsgi:app

The float32 model first captions calibration pictures: what its activations are like there decides how they are
balanced, and its captions are what the export is compared with at the end. The same checkpoint and pictures give the
same bytes every time on one machine; the folder prepacked/ in it, which makes starts quick and can be made anew from
the rest at any time, is this machine's own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import sys
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import decoders
from tqdm import tqdm
from transformers import AutoTokenizer, BlipConfig

from captioning.model.hub import ModelLoadError
from captioning.model.int8.manifest import MANIFEST, Manifest
from captioning.model.origin import Origin
from captioning.model.preprocessor import Preprocessor
from captioning.model.torch_engine import load_model
from captioning.settings import Settings
from model_loader import local_folder
from tools.blip_sizes import Array, Sizes
from tools.int8_balance import balance
from tools.int8_calibration import PICTURES, Channels, listening, refer, views
from tools.int8_decoder import build_decoder
from tools.int8_encoder import build_encoder
from tools.int8_fidelity import (
    LARGEST_ERROR,
    LARGEST_MEDIAN_ERROR,
    SAMPLE,
    Products,
    is_faithful,
    measure,
    table,
)


class ExportError(Exception):
    """Say in one sentence why a model cannot be exported."""


def export(
    model_id: str, revision: str | None, out: Path, *, calibration: Path = PICTURES, accept: bool = False
) -> None:
    """Write the export of a checkpoint, given as a folder or by its name on the hub, to the folder ``out``.

    Raises:
        ExportError: it is not a BLIP captioning model, a file of it is missing or broken, or, unless that is to be
            accepted, the export is too far from it on the pictures in the folder ``calibration``.
        ModelLoadError: it cannot be had from the hub.
    """
    folder = local_folder(Settings(model_id=model_id, model_revision=revision, engine="torch"))  # may be a hub model
    config = read_config(folder)
    sizes = Sizes.of(config)
    preprocessing = read_preprocessing(folder, sizes.image_size)
    checkpoint = _weights_file(folder)
    model, tokenizer = _load(folder)
    try:
        pictures = views(calibration, Preprocessor.from_config(preprocessing))
    except (OSError, ValueError) as error:
        raise ExportError(f"The calibration pictures cannot be used: {error}.") from error

    seen: dict[str, Channels] = {}

    def note(name: str, x: Array) -> None:
        seen[name] = seen[name] | Channels.of(x) if name in seen else Channels.of(x)

    with listening(model, note):
        references = [refer(model, tokenizer, pixels) for pixels in tqdm(pictures, unit="calibration picture")]
    state = model.state_dict()
    balanced = balance(lambda name: state[name].numpy(), sizes, seen)
    products = Products(balanced)
    with listening(model, products.hear), torch.inference_mode():
        for pixels, reference in tqdm(list(zip(pictures, references, strict=True))[:SAMPLE], unit="measured picture"):
            model(pixel_values=torch.from_numpy(pixels), input_ids=torch.from_numpy(reference.tokens))

    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)
    build_encoder(out, sizes, balanced, products.inexact)
    build_decoder(out, sizes, balanced, products.inexact)
    write_tokenizer(tokenizer, out)
    (out / "preprocessor_config.json").write_text(json.dumps(preprocessing, indent=2, sort_keys=True) + "\n")
    with checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    manifest = Manifest(
        **Origin.of(folder, named=model_id).model_dump(),
        weights_sha256=digest,
        image_tokens=sizes.image_tokens,
        text_layers=sizes.text_layers,
        text_heads=sizes.text_heads,
        head_width=sizes.head_width,
        max_position_embeddings=config.text_config.max_position_embeddings,
        bos_token_id=config.text_config.bos_token_id,
        sep_token_id=config.text_config.sep_token_id,
    )
    manifest.write(out)
    try:
        fidelity = measure(out, model, products, pictures, references)
    finally:
        (out / MANIFEST).unlink()  # what was not measured, or is refused, is no export
    print(f"{table(fidelity)}\n\nOn {calibration}, {fidelity}.")
    if not (accept or is_faithful(fidelity)):
        raise ExportError(
            f"The export is not served: {fidelity}, where {LARGEST_MEDIAN_ERROR:.0%} and {LARGEST_ERROR:.0%} are the "
            "most. Give pictures like yours as CALIBRATION=folder, use ENGINE=torch, or export again with --accept."
        )
    manifest.model_copy(update={"fidelity": fidelity}).write(out)


def _load(folder: Path) -> tuple[Any, Any]:
    """Load a checkpoint and its tokenizer.

    Raises:
        ExportError: weights are missing, or a file is broken.
    """
    try:
        return load_model(folder), AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, UnpicklingError, SafetensorError) as error:
        raise ExportError(f"{folder} is not a whole BLIP captioning model: {error}.") from error


def read_config(folder: Path) -> Any:
    """Read a checkpoint's BlipConfig, with transformers' defaults for what it leaves out.

    Raises:
        ExportError: it is of another model, or asks for what the graphs do not do.
    """
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


def write_tokenizer(tokenizer: Any, out: Path) -> None:
    """Write tokenizer.json, in which everything that transformers does around the tokenizer is said, too."""
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
    parser.add_argument("--calibration", type=Path, default=PICTURES, help="folder of pictures like those to come")
    parser.add_argument("--accept", action="store_true", help="write the export however far it is from its model")
    args = parser.parse_args()
    try:
        export(args.model, args.revision, args.out, calibration=args.calibration, accept=args.accept)
    except (ExportError, ModelLoadError) as error:
        sys.exit(str(error))
    size = sum(file.stat().st_size for file in args.out.rglob("*") if file.is_file()) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{args.out}: {size:.0f} MB; the export's own memory peaked at {peak:.0f} MiB, mapped files included.")


if __name__ == "__main__":
    main()
