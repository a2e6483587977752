"""BLIP in 8 bits on ONNX Runtime, from a folder that `make export` wrote; neither torch nor transformers is imported.

Greedy and beam search give what transformers' `generate` gives for the same logits. The graphs, and what their
inputs and outputs are, stand in tools/int8_encoder.py and tools/int8_decoder.py.
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
Logits = NDArray[np.float32]
Arrays = dict[str, NDArray[np.generic]]  # by the graphs' names for them
KeysValues = dict[str, OrtValue]


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
        self._past = [f"past_{part}_{layer}" for layer in layers for part in ("key", "value")]
        self._present = [name.replace("past", "present") for name in self._past]
        self._cross = [name.replace("past", "cross") for name in self._past]
        # Room for one picture's keys and values, kept: 10 MB that would else be got from the kernel each time.
        self._room = self._room_for(1)

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
        if options.num_beams == 1:
            found = self._greedy(cross, np.array([prompt] * len(pixel_values), np.int64), options)
        else:  # a picture at a time: of several, cross-attention takes one query each
            one_by_one = ({name: array[[n]] for name, array in cross.items()} for n in range(len(pixel_values)))
            found = [self._beams(picture, np.array([prompt], np.int64), options) for picture in one_by_one]
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
            answer, past = self._read(column[:, None], past, cross)
            answers.append(answer)
        return np.stack(answers, axis=1)

    def _prompt(self, text: str) -> list[int]:
        # [CLS] text [SEP]: the decoder's own start takes the first place, and the end is left off.
        return [self.manifest.bos_token_id, *(self._tokenizer.encode(text).ids[1:-1] if text else [])]

    def _room_for(self, pictures: int) -> Arrays:
        """Make room for what the encoder tells the decoder's cross-attention of so many pictures."""
        manifest = self.manifest
        heads = (pictures, manifest.text_heads, manifest.image_tokens, manifest.head_width)
        scales = (pictures, 1, manifest.text_heads * manifest.head_width)
        room: Arrays = {name: np.empty(heads, np.int8) for name in self._cross}
        return room | {f"{name}_scale": np.empty(scales, np.float32) for name in self._cross}

    def _encode(self, pixel_values: Pixels) -> Arrays:
        """Encode float32 ``[B, 3, H, W]``: each decoder layer's cross-attention keys and values, and their scales."""
        cross = self._room if len(pixel_values) == 1 else self._room_for(len(pixel_values))
        for number, picture in enumerate(pixel_values):
            binding = self._encoder.io_binding()
            binding.bind_cpu_input("pixel_values", picture[None])
            for name, array in cross.items():
                place = array[number : number + 1]  # written there, so that a batch is never copied together
                binding.bind_output(name, "cpu", 0, place.dtype, place.shape, place.ctypes.data)
            self._encoder.run_with_iobinding(binding)
        return cross

    def _caption(self, prompt: list[int], beam: Beam) -> Caption:
        return Caption.of(
            self._tokenizer.decode(prompt + beam.tokens, skip_special_tokens=True).strip(),
            beam.log_probabilities,
            ended=beam.tokens[-1] == self.manifest.sep_token_id,
            score=beam.score,
        )

    def _greedy(self, cross: Arrays, tokens: Tokens, options: GenerationOptions) -> list[list[Beam]]:
        """Go on from prompts ``[B, T]`` with the likeliest token each time: one beam for each of B pictures."""
        end = self.manifest.sep_token_id
        captions: list[list[int]] = [[] for _ in tokens]
        log_probabilities: list[list[float]] = [[] for _ in tokens]
        running = np.arange(len(tokens))
        past, following = self._nothing_past(len(tokens)), tokens
        for _ in range(options.max_new_tokens):
            logits, past = self._read(following, past, cross)  # [B, V]
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

    def _beams(self, cross: Arrays, tokens: Tokens, options: GenerationOptions) -> list[Beam]:
        """Go on from one picture's prompt ``[1, T]`` by beam search: at most K beams."""
        search = BeamSearch(tokens, options, end=self.manifest.sep_token_id)
        logits, past = self._read(tokens, self._nothing_past(1), cross)
        first = np.zeros(options.num_beams, np.int64)  # the prompt is read once for all beams
        logits, past = logits[first], _rows(past, first)
        while True:
            chosen, parents = search.step(logits[None])
            if search.done:
                return search.best()[0]
            logits, past = self._read(chosen.T, _rows(past, parents[0]), cross)

    def _read(self, tokens: Tokens, past: KeysValues, cross: Arrays) -> tuple[Logits, KeysValues]:
        """Read tokens ``[N, T]`` after the past: logits ``[N, V]`` after the last, and the past with them in it."""
        # Cross-attention takes several queries of one picture, or one each of several.
        several = len(cross[self._cross[0]]) > 1
        for part in np.split(tokens, tokens.shape[1], axis=1) if several else [tokens]:
            logits, past = self._decode(part, past, cross)
        return logits, past

    def _decode(self, tokens: Tokens, past: KeysValues, cross: Arrays) -> tuple[Logits, KeysValues]:
        start = past[self._past[0]].shape()[2]
        positions = np.arange(start, start + tokens.shape[1])
        arrays = {"token_ids": np.ascontiguousarray(tokens), "positions": positions, **cross}
        values = {name: OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
        binding = self._decoder.io_binding()
        for name, value in (values | past).items():
            binding.bind_ortvalue_input(name, value)
        for name in ("logits", *self._present):
            binding.bind_output(name)
        for name in self._cross:  # come out as they went in, in the same place
            binding.bind_ortvalue_output(f"{name}_present", values[name])
        self._decoder.run_with_iobinding(binding)
        logits, *present = binding.get_outputs()[: 1 + len(self._present)]
        return logits.numpy(), dict(zip(self._past, present, strict=True))

    def _nothing_past(self, rows: int) -> KeysValues:
        empty = np.empty((rows, self.manifest.text_heads, 0, self.manifest.head_width), np.float32)
        return {name: OrtValue.ortvalue_from_numpy(empty) for name in self._past}


def _rows(past: KeysValues, rows: Tokens) -> KeysValues:
    return {name: OrtValue.ortvalue_from_numpy(value.numpy()[rows]) for name, value in past.items()}


def load(folder: Path, settings: Settings) -> Int8Engine:
    """Open the export in ``folder``; raises as `Int8Engine` does."""
    engine = Int8Engine(folder, num_threads=settings.model_threads)
    log.info("When it was exported, on calibration pictures, %s.", engine.manifest.fidelity)
    return engine
