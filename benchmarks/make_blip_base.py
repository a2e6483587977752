"""Make a full-size BLIP-base with random weights, for measuring where the public checkpoint cannot be had.

    python -m benchmarks.make_blip_base --out build/blip-base

An ordinary checkpoint folder of about 900 MB with the sizes of Salesforce/blip-image-captioning-base, a BERT-like
tokenizer of the same vocabulary size and special token ids, and the image processor. Its captions are nonsense and
always as long as they may be, so that every measurement decodes the same number of tokens. The same seed gives the
same weights.
"""

from __future__ import annotations

import argparse
import string
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessorPil, BlipProcessor


def make_tokenizer(folder: Path, config: BlipConfig) -> BertTokenizer:
    """Make a BERT tokenizer with the special tokens where the config has them; the words are invented."""
    text: Any = config.text_config
    size = text.vocab_size
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    special |= {size - 2: "[DEC]", size - 1: "[ENC]"}
    letters = list(string.ascii_lowercase + string.digits)
    known = letters + ["##" + letter for letter in letters] + list(".,!?'-:;") + ["picture", "photo", "of"]
    invented = map("".join, product("bcdfghjklmnprstvwz", "aeiou", "bdfgklmnprstvz", "aeiou", "lmnrst"))
    words = iter([*known, *islice(invented, size)])
    pieces = [special.get(i) or (f"[unused{i}]" if i < 104 else next(words)) for i in range(size)]
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(pieces) + "\n")
    tokenizer = BertTokenizer(
        vocab=str(vocabulary),
        bos_token="[DEC]",  # noqa: S106
        model_max_length=text.max_position_embeddings,
    )
    vocabulary.unlink()
    return tokenizer


def make_model(config: BlipConfig, seed: int) -> BlipForConditionalGeneration:
    """Make the model with random weights; it never chooses the token that would end a caption."""
    torch.manual_seed(seed)
    text: Any = config.text_config
    model = BlipForConditionalGeneration(config)
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias[text.sep_token_id] = -1e4
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/blip-base"), help="where the checkpoint goes")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    config = BlipConfig(
        # BlipTextConfig's default of 8 is not what was published (huggingface/transformers#22625).
        text_config={"num_attention_heads": 12},
        # By default the image encoder's own weights are next to zero, and every picture looks the same to it.
        vision_config={"initializer_range": 0.02},
    )
    image_processor = BlipImageProcessorPil(size={"height": 384, "width": 384})
    BlipProcessor(image_processor, make_tokenizer(args.out, config)).save_pretrained(args.out)
    make_model(config, args.seed).save_pretrained(args.out)
    print(f"{args.out}: {sum(file.stat().st_size for file in args.out.iterdir()) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
