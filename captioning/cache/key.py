"""What a caption depends on, as one key: the picture, the model and the options."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from captioning.model.engine import GenerationOptions

# Raise it when the same picture may get another caption from the same model: a change to decoding, preprocessing or
# generation. A cache that instances share outlives a deploy, so this is what tells old captions from new ones.
VERSION = 5

# By ending: the files of a model, its weights apart, that captions can depend on.
_SMALL_FILES = (".json", ".txt")
_NOTE = "origin.json"  # of where they came from: see captioning.model.origin


def picture_digest(encoded: bytes) -> bytes:
    """Return the SHA-256 of a picture's encoded bytes, as they came."""
    return hashlib.sha256(encoded).digest()


def caption_key(digest: bytes, options: GenerationOptions, model: str) -> str:
    """Return the key of the caption that ``model`` gives the picture of this digest with these options."""
    parts = [digest.hex(), model, asdict(options)]
    return f"caption:{VERSION}:{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}"


def files_sha256(folder: Path, weights: tuple[str, ...]) -> str:
    """Return the hash of all that captions can depend on in a model's folder; ``weights`` are endings of files.

    Every byte counts: fine-tuning may change a few biases only, which samples of the weights would miss, and a
    file's time differs between instances that hold the same. It takes 0.7 s for the 990 MB of BLIP-base.
    """
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (*_SMALL_FILES, *weights) and path.name != _NOTE:
            with path.open("rb") as file:
                total.update(f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()
