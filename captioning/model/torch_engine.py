"""BLIP under PyTorch with transformers' own classes: readable, exact, the reference."""

from __future__ import annotations

import logging
import operator
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, BlipForConditionalGeneration, StoppingCriteria
from transformers.utils import logging as transformers_logging

from captioning.model.engine import Caption, Generation, GenerationOptions, Pixels
from captioning.model.preprocessor import Preprocessor
from captioning.settings import Settings, TorchDtype

log = logging.getLogger("captioning.model")


def load_model(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Load the checkpoint in ``folder``, a `BlipForConditionalGeneration`, to the CPU.

    Raises:
        ValueError: weights are missing from the checkpoint.
        OSError: a file is missing or broken.
    """
    try:
        loaded: Any = BlipForConditionalGeneration.from_pretrained(
            folder, local_files_only=True, dtype=dtype, output_loading_info=True
        )
    except SafetensorError as error:
        raise OSError(f"its weights are broken: {error}") from error
    model, loading = loaded
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(f"the checkpoint lacks {len(missing)} of BLIP's weights, {missing[0]} among them")
    return model.eval()


def choose_dtype(wanted: TorchDtype) -> torch.dtype:
    """Return the numbers that the model is to have, on this machine.

    A GPU has half precision: bfloat16 where it computes that itself. A CPU that does not is up to a hundred times as
    slow with it, so ``auto`` multiplies two matrices of BLIP's before it decides.
    """
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if wanted == "auto":
        quicker = _seconds_of_a_product(torch.bfloat16) < 0.8 * _seconds_of_a_product(torch.float32)
        return torch.bfloat16 if quicker else torch.float32
    return torch.bfloat16 if wanted == "bfloat16" else torch.float32


def _seconds_of_a_product(dtype: torch.dtype) -> float:
    tokens, matrix = torch.ones(256, 768, dtype=dtype), torch.ones(768, 768, dtype=dtype)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        tokens @ matrix
        seconds.append(time.perf_counter() - started)
    return min(seconds)


class _Certainties(StoppingCriteria):
    """The log-probabilities of the tokens that one search chose, before what is done against repetition.

    They are taken as the steps go by: the logits of all steps would be 0.12 MB a token and row. It stops no search.
    """

    def __init__(self) -> None:
        self._steps: list[tuple[torch.Tensor, torch.Tensor]] = []

    def note_logits(self, decoder: object, inputs: object, output: Any) -> None:
        """Keep a step's logits, float32 ``[B K, V]``, until its tokens are chosen: a forward hook of the decoder."""
        self._logits = output.logits[:, -1].to(torch.float32, copy=True)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> Any:
        """Note the last tokens of ``input_ids``, among which the sequences are that the search goes on with."""
        tokens = input_ids[:, -1].unique()  # [U], sorted
        self._steps.append((tokens, self._logits[:, tokens] - self._logits.logsumexp(-1, keepdim=True)))
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def of(self, sequences: torch.Tensor, rows: torch.Tensor) -> list[list[float]]:
        """Return those of ``[B K, N]`` sequences, each of whose tokens was chosen from a row; padding gets any."""
        certain = [
            noted[row].gather(1, torch.searchsorted(tokens, token).clamp(max=len(tokens) - 1)[:, None])
            for token, row, (tokens, noted) in zip(sequences.T.contiguous(), rows.T, self._steps, strict=False)
        ]
        return torch.cat(certain, dim=1).tolist()


class TorchEngine:
    """Run BLIP in float32 or bfloat16 on the CPU, or in half precision on a GPU where there is one."""

    def __init__(self, folder: Path, *, num_threads: int, dtype: TorchDtype = "float32") -> None:
        """Load the checkpoint in ``folder``.

        Raises:
            ValueError: weights are missing from the checkpoint.
            OSError: a file is missing or broken.
        """
        torch.set_num_threads(num_threads)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = choose_dtype(dtype)
        log.info("The model computes with %s on the %s.", str(self._dtype).removeprefix("torch."), self._device)
        self.preprocessor = Preprocessor.from_folder(folder)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = load_model(folder, self._dtype)
        self._model = model.to(self._device)
        # `generate` calls the vision tower once and first: when that returns, decoding begins.
        self._encoded_at = 0.0
        self._model.vision_model.register_forward_hook(self._note_encoded)

    def check(self, options: GenerationOptions) -> None:
        """Raise `InvalidParameter` when the model has no room for the prompt and the caption."""
        positions = self._model.config.text_config.max_position_embeddings
        options.check_room(prompt_tokens=len(self._input_ids(options.prompt)), positions=positions)

    @torch.inference_mode()
    def caption(self, pixel_values: Pixels, options: GenerationOptions) -> Generation:
        """Caption float32 ``[B, 3, H, W]``: candidates for each of B pictures, the prompt in front of each."""
        inputs = {}
        prompt_tokens = 1
        if options.prompt:
            # [CLS] prompt [SEP]: generate puts the decoder's own start in the first place and drops the last.
            ids = torch.tensor([self._input_ids(options.prompt)] * len(pixel_values), device=self._device)  # [B, T]
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            prompt_tokens = ids.shape[1] - 1
        certainties = _Certainties()
        started = time.monotonic()
        with self._model.text_decoder.register_forward_hook(certainties.note_logits):
            generated: Any = self._model.generate(
                pixel_values=torch.from_numpy(pixel_values).to(self._device, self._dtype),  # [B, 3, H, W]
                max_new_tokens=options.max_new_tokens,
                num_beams=options.num_beams,
                num_return_sequences=options.num_beams,
                no_repeat_ngram_size=options.no_repeat_ngram_size,
                repetition_penalty=float(options.repetition_penalty),
                do_sample=False,
                return_dict_in_generate=True,
                stopping_criteria=[certainties],
                **inputs,
            )
        captions = self._captions(generated, certainties, prompt_tokens, options)
        return Generation(
            [
                tuple(captions[first : first + options.num_beams])
                for first in range(0, len(captions), options.num_beams)
            ],
            encode_s=self._encoded_at - started,
            decode_tokens_s=time.monotonic() - self._encoded_at,
        )

    def _captions(
        self, generated: Any, noted: _Certainties, prompt_tokens: int, options: GenerationOptions
    ) -> list[Caption]:
        """Return all B K sequences, in the order in which `generate` gives them, with how sure the model was."""
        new = generated.sequences[:, prompt_tokens:]  # [B K, N]
        rows = generated.get("beam_indices")  # [B K, N]: which row of a step's logits each token was chosen from
        if rows is None:
            rows = torch.arange(len(new), device=self._device)[:, None].expand_as(new)
        log_probabilities = noted.of(new, rows.clamp(min=0))  # [B K, N]
        texts = self._tokenizer.batch_decode(generated.sequences, skip_special_tokens=True)
        end = self._model.config.text_config.sep_token_id
        captions = []
        for text, tokens, certainties in zip(texts, generated.sequences.tolist(), log_probabilities, strict=True):
            ended = end in tokens[prompt_tokens:]
            length = tokens.index(end, prompt_tokens) + 1 if ended else len(tokens)
            certainties = certainties[: length - prompt_tokens]
            score = None
            if options.num_beams > 1:  # beam search, unlike greedy search, penalises the log-probabilities themselves
                seen = (token in tokens[:place] for place, token in enumerate(tokens[:length]))
                penalties = [options.repetition_penalty if again else 1 for again in seen][prompt_tokens:]
                score = sum(map(operator.mul, certainties, penalties)) / len(certainties)
            captions.append(Caption.of(text.strip(), certainties, ended=ended, score=score))
        return captions

    def _note_encoded(self, *_: object) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()  # a GPU is given its work long before it has done it
        self._encoded_at = time.monotonic()

    def _input_ids(self, prompt: str) -> list[int]:
        # The tokenizer under transformers' wrapper, which changes its state at every call and so is not thread-safe.
        ids: list[int] = self._tokenizer.backend_tokenizer.encode(prompt).ids
        return ids


def load(folder: Path, settings: Settings) -> TorchEngine:
    """Load the checkpoint in ``folder``; raises as `TorchEngine` does."""
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    return TorchEngine(folder, num_threads=settings.model_threads, dtype=settings.torch_dtype)
