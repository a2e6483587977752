"""BLIP in 8 bits on ONNX Runtime, from a folder that `make export` wrote; neither torch nor transformers is imported.

Greedy and beam search give what transformers' `generate` gives for the same logits. The graphs, and what their
inputs and outputs are, stand in tools/int8_graphs.py.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnxruntime import OrtValue
from tokenizers import Tokenizer

from captioning.model.engine import Caption, Generation, GenerationOptions, Pixels
from captioning.model.int8.beam_search import Beam, BeamSearch
from captioning.model.int8.logits import against_repetition, log_softmax
from captioning.model.int8.manifest import Manifest
from captioning.model.int8.sessions import open_sessions
from captioning.model.preprocessor import Preprocessor
from captioning.settings import Settings

log = logging.getLogger("captioning.model")

Tokens = NDArray[np.int64]
KeysValues = dict[str, OrtValue]  # by the decoder's names for them


class Int8Engine:
    """Run an exported BLIP on the CPU."""

    def __init__(self, folder: Path, *, num_threads: int) -> None:
        """Load the export in ``folder``.

        Raises:
            ValueError: it is not an export, or one of another version of the format.
            OSError: a file is missing or broken.
        """
        self.manifest = Manifest.read(folder)
        self.preprocessor = Preprocessor.from_folder(folder)
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self._encoder, self._decoder = open_sessions(folder, num_threads)
        except Exception as error:  # all that both libraries' own errors have in common
            raise ValueError(f"a file in {folder} is missing or broken: {error}") from error
        layers = range(self.manifest.text_layers)
        self._cross = [f"cross_{part}_{layer}" for layer in layers for part in ("key", "value")]
        self._past = [f"past_{part}_{layer}" for layer in layers for part in ("key", "value")]
        self._present = [name.replace("past", "present") for name in self._past]
        # Room for one picture's keys and values, kept: tens of MB that would else be got from the kernel each time.
        shape = (1, self.manifest.text_heads, self.manifest.image_tokens, self.manifest.head_width)
        self._room = {name: np.empty(shape, np.float32) for name in self._cross}

    def check(self, options: GenerationOptions) -> None:
        """Raise `InvalidParameter` when the model has no room for the prompt and the caption."""
        prompt_tokens = len(self._tokenizer.encode(options.prompt).ids)
        options.check_room(prompt_tokens=prompt_tokens, positions=self.manifest.max_position_embeddings)

    def caption(self, pixel_values: Pixels, options: GenerationOptions) -> Generation:
        """Caption float32 ``[B, 3, H, W]``: candidates for each of B pictures, the prompt in front of each."""
        prompt = self._prompt(options.prompt)
        started = time.monotonic()
        cross = self._encode(pixel_values)
        encoded = time.monotonic()
        search = self._greedy if options.num_beams == 1 else self._beams
        found = search(cross, np.array([prompt] * len(pixel_values), np.int64), options)
        return Generation(
            [tuple(self._caption(prompt, beam) for beam in beams) for beams in found],
            encode_s=encoded - started,
            decode_tokens_s=time.monotonic() - encoded,
        )

    def logits(self, pixel_values: Pixels, tokens: Tokens) -> NDArray[np.float32]:
        """Return the logits ``[B, T, V]`` that follow each of the tokens ``[B, T]``, read one at a time."""
        cross, past = self._encode(pixel_values), self._nothing_past(len(tokens))
        answers = []
        for column in tokens.T:
            answer, past = self._decode("logits", column[:, None], past, cross)
            answers.append(answer.numpy())
        return np.stack(answers, axis=1)

    def _prompt(self, text: str) -> list[int]:
        # [CLS] text [SEP]: the decoder's own start takes the first place, and the end is left off.
        return [self.manifest.bos_token_id, *(self._tokenizer.encode(text).ids[1:-1] if text else [])]

    def _encode(self, pixel_values: Pixels) -> KeysValues:
        """Encode float32 ``[B, 3, H, W]``: each decoder layer's cross-attention keys and values ``[B, H, S, W]``."""
        shape = self._room[self._cross[0]].shape[1:]
        several = len(pixel_values) > 1
        cross = {n: np.empty((len(pixel_values), *shape), np.float32) for n in self._cross} if several else self._room
        for number, picture in enumerate(pixel_values):
            binding = self._encoder.io_binding()
            binding.bind_cpu_input("pixel_values", picture[None])
            for name, array in cross.items():
                place = array[number].ctypes.data  # written there, so that a batch is never copied together
                binding.bind_output(name, "cpu", 0, np.float32, (1, *shape), place)
            self._encoder.run_with_iobinding(binding)
        return {name: OrtValue.ortvalue_from_numpy(array) for name, array in cross.items()}

    def _caption(self, prompt: list[int], beam: Beam) -> Caption:
        return Caption.of(
            self._tokenizer.decode(prompt + beam.tokens, skip_special_tokens=True).strip(),
            beam.log_probabilities,
            ended=beam.tokens[-1] == self.manifest.sep_token_id,
            score=beam.score,
        )

    def _greedy(self, cross: KeysValues, tokens: Tokens, options: GenerationOptions) -> list[list[Beam]]:
        """Go on from prompts ``[B, T]`` with the likeliest token each time: one beam for each of B pictures."""
        end = self.manifest.sep_token_id
        captions: list[list[int]] = [[] for _ in tokens]
        log_probabilities: list[list[float]] = [[] for _ in tokens]
        running = np.arange(len(tokens))
        past, following = self._nothing_past(len(tokens)), tokens
        for _ in range(options.max_new_tokens):
            answer, past = self._decode("logits", following, past, cross)
            logits = answer.numpy()  # [B, V]
            chosen = against_repetition(logits, tokens, options).argmax(axis=1)
            certainties = np.take_along_axis(log_softmax(logits), chosen[:, None], axis=1)
            for number in running:
                captions[number].append(int(chosen[number]))
                log_probabilities[number].append(float(certainties[number, 0]))
            running = running[chosen[running] != end]
            if not running.size:
                break
            following = chosen[:, None]
            tokens = np.concatenate([tokens, following], axis=1)
        return [
            [Beam(caption, certain, sum(certain) / len(certain))]
            for caption, certain in zip(captions, log_probabilities, strict=True)
        ]

    def _beams(self, cross: KeysValues, tokens: Tokens, options: GenerationOptions) -> list[list[Beam]]:
        """Go on from prompts ``[B, T]`` by beam search: at most K beams for each of B pictures."""
        pictures, beams = len(tokens), options.num_beams
        search = BeamSearch(tokens, options, end=self.manifest.sep_token_id)
        answer, past = self._decode("logits", tokens, self._nothing_past(pictures), cross)
        # The prompt is read once for all beams of a picture.
        logits = np.repeat(answer.numpy()[:, None], beams, axis=1)  # [B, K, V]
        rows = np.repeat(np.arange(pictures), beams)  # which row of the past each beam goes on from
        while True:
            chosen, parents = search.step(logits)
            if search.done:
                return search.best()
            rows = rows.reshape(pictures, beams)[np.arange(pictures)[:, None], parents].ravel()
            past = {name: OrtValue.ortvalue_from_numpy(value.numpy()[rows]) for name, value in past.items()}
            rows = np.arange(pictures * beams)
            answer, past = self._decode("logits", chosen.reshape(-1, 1), past, cross)
            logits = answer.numpy().reshape(pictures, beams, -1)

    def _decode(self, answer: str, tokens: Tokens, past: KeysValues, cross: KeysValues) -> tuple[OrtValue, KeysValues]:
        """Read tokens ``[N, T]`` after the past: ``answer`` for the last of them, and the past with them in it."""
        start = past[self._past[0]].shape()[2]
        feeds = {
            "token_ids": OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tokens)),
            "positions": OrtValue.ortvalue_from_numpy(np.arange(start, start + tokens.shape[1])),
            **past,
            **cross,
        }
        first, *present = self._decoder.run_with_ort_values([answer, *self._present], feeds)
        return first, dict(zip(self._past, present, strict=True))

    def _nothing_past(self, rows: int) -> KeysValues:
        empty = np.empty((rows, self.manifest.text_heads, 0, self.manifest.head_width), np.float32)
        return {name: OrtValue.ortvalue_from_numpy(empty) for name in self._past}


def load(folder: Path, settings: Settings) -> Int8Engine:
    """Open the export in ``folder``; raises as `Int8Engine` does."""
    engine = Int8Engine(folder, num_threads=settings.model_threads)
    log.info("When it was exported, on calibration pictures, %s.", engine.manifest.fidelity)
    return engine
