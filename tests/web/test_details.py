"""What is told of a caption on request, from both engines and from the cache; by default it is the caption alone."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import requests
import torch

from tests.conftest import EMOJI_MODEL, SAMPLES, Service
from tests.web.test_local_caption import reference

PICTURE = SAMPLES[0].read_bytes()
URL = "data:image/jpeg;base64," + base64.b64encode(PICTURE).decode()
DETAILS = {"output", "confidence", "tokens", "finishReason", "model", "revision", "engine"}


def ask(service: Service, **fields: Any) -> dict[str, Any]:
    response = service.post(json={"imageUrl": URL, **fields})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@lru_cache
@torch.inference_mode()
def direct_confidence(sample: Path) -> tuple[float, int]:
    """Multiply the probabilities of the greedy tokens, found one forward pass after the other."""
    model, processor = reference()
    pixel_values = processor(images=_open(sample), return_tensors="pt")["pixel_values"]
    image = model.vision_model(pixel_values)[0]
    config: Any = model.config.text_config
    tokens, product = [config.bos_token_id], 1.0
    while tokens[-1] != config.sep_token_id:
        logits = model.text_decoder(input_ids=torch.tensor([tokens]), encoder_hidden_states=image).logits[0, -1]
        probabilities = logits.double().softmax(0)
        tokens.append(int(probabilities.argmax()))
        product *= float(probabilities[tokens[-1]])
    return product ** (1 / (len(tokens) - 1)), len(tokens) - 2


def _open(sample: Path) -> Any:
    from PIL import Image

    return Image.open(sample).convert("RGB")


def test_without_asking_the_answer_is_exactly_the_caption(service: Service) -> None:
    for fields in ({}, {"details": False}, {"details": None}, {"details": ""}, {"candidates": None}):
        assert ask(service, **fields).keys() == {"output"}


@pytest.mark.parametrize("sample", SAMPLES[:4], ids=lambda sample: sample.stem)
def test_confidence_is_the_geometric_mean_of_the_tokens_probabilities(service: Service, sample: Path) -> None:
    answer = service.upload(sample.read_bytes(), params={"details": "true"}).json()
    assert answer.keys() == DETAILS
    confidence, tokens = direct_confidence(sample)
    exact = service.model["ENGINE"] == "torch"
    assert answer["confidence"] == pytest.approx(confidence, abs=1e-5 if exact else 0.05)
    assert (answer["tokens"], answer["finishReason"]) == (tokens, "end")
    assert tokens == len(answer["output"].split())  # the embedded model has a token for each of its words


def test_details_come_however_they_are_asked_for_and_name_the_model(service: Service) -> None:
    told = ask(service, details=True)
    ready = service.get("/readyz").json()
    assert {name: told[name] for name in ("model", "revision", "engine")} == {
        name: ready[name] for name in ("model", "revision", "engine")
    }
    assert service.post(files={"image": PICTURE}, data={"details": "true"}).json() == told
    assert service.post(data={"imageUrl": URL, "details": "1"}).json() == told
    assert service.post(json={"imageUrl": URL}, params={"details": "true"}).json() == told
    assert service.post(json={"imageUrl": URL, "details": False}, params={"details": "1"}).json().keys() == {"output"}


def test_a_caption_that_was_cut_off_says_so(service: Service) -> None:
    told = ask(service, details=True, maxNewTokens=3, prompt="a picture of")
    assert (told["tokens"], told["finishReason"]) == (3, "length")
    assert len(told["output"].split()) == 6


def test_candidates_are_listed_from_the_best_on(service: Service) -> None:
    five = ask(service, numBeams=5, candidates=5)
    assert five.keys() == {"output", "candidates"}
    outputs = [candidate["output"] for candidate in five["candidates"]]
    scores = [candidate["score"] for candidate in five["candidates"]]
    assert outputs[0] == five["output"]
    assert len(set(outputs)) == 5
    assert scores == sorted(scores, reverse=True)
    assert ask(service, numBeams=5, candidates=2)["candidates"] == five["candidates"][:2]
    greedy = ask(service, candidates=1, details=True)
    assert greedy.keys() == DETAILS | {"candidates"}
    [one] = greedy["candidates"]
    assert math.exp(one["score"]) == pytest.approx(greedy["confidence"])


@pytest.mark.parametrize(
    "fields",
    [
        {"candidates": 2},
        {"candidates": 4, "numBeams": 3},
        {"candidates": 0},
        {"candidates": "2", "numBeams": 2},
        {"details": "yes"},
        {"details": 1},
        {"noRepeatNgramSize": -1},
        {"noRepeatNgramSize": 1.5},
        {"repetitionPenalty": 0},
        {"repetitionPenalty": 1e-9},
        {"repetitionPenalty": -1.5},
        {"repetitionPenalty": 11},
        {"repetitionPenalty": True},
        {"repetitionPenalty": "1.5"},
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(service: Service, fields: dict[str, Any]) -> None:
    response = service.post(json={"imageUrl": URL, **fields})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_parameter")
    assert response.json()["error"].startswith(next(iter(fields)))


def test_infinity_is_no_penalty(service: Service) -> None:
    for value in ("Infinity", "NaN", "1e999"):
        body = f'{{"imageUrl": "data:,a", "repetitionPenalty": {value}}}'
        response = service.post(data=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 400


def test_options_against_repetition_hold_in_every_form(service: Service) -> None:
    prompt = "a a a red red"
    free = ask(service, prompt=prompt)["output"]
    options: dict[str, Any] = {"prompt": prompt, "noRepeatNgramSize": 1, "repetitionPenalty": 1.5}
    held = ask(service, **options)["output"]
    assert held != free
    new = held.removeprefix(prompt).split()
    assert not {"a", "red"} & set(new)
    assert len(new) == len(set(new))
    assert service.upload(PICTURE, params=options).json() == {"output": held}
    assert service.post(files={"image": PICTURE}, data=options).json() == {"output": held}


def test_several_pictures_are_told_of_each(service: Service) -> None:
    bulk = f"{service.url}/local-captions"
    told = ask(service, details=True, numBeams=2, candidates=2)
    body = {"imageUrls": [URL, "data:,a"], "details": True, "numBeams": 2, "candidates": 2}
    first, second = requests.post(bulk, json=body, timeout=60).json()["outputs"]
    assert first == told
    assert second.keys() == {"error", "code"}
    lines = requests.post(bulk, json=body, headers={"Accept": "application/x-ndjson"}, timeout=60).text.splitlines()
    assert {"index": 0, **told} in map(json.loads, lines)


def test_a_cached_caption_answers_details_and_candidates_too(
    start_service: Callable[..., Service],
) -> None:
    service = start_service(MODEL_ID=str(EMOJI_MODEL)).wait_until_ready()
    plain = service.post(json={"imageUrl": URL, "numBeams": 3})
    full = service.post(json={"imageUrl": URL, "numBeams": 3, "details": True, "candidates": 3})
    assert (plain.headers["X-Cache"], full.headers["X-Cache"]) == ("miss", "hit")
    assert full.json()["output"] == plain.json()["output"]
    assert full.json().keys() == DETAILS | {"candidates"}
    assert len(full.json()["candidates"]) == 3


def test_a_service_s_own_defaults_hold_off_repetition(start_service: Callable[..., Service]) -> None:
    settings = {"NO_REPEAT_NGRAM_SIZE": "1", "REPETITION_PENALTY": "1.5"}
    service = start_service(MODEL_ID=str(EMOJI_MODEL), **settings).wait_until_ready()
    prompt = "a a a red red"
    by_default = ask(service, prompt=prompt)
    assert by_default == ask(service, prompt=prompt, noRepeatNgramSize=1, repetitionPenalty=1.5)
    assert by_default != ask(service, prompt=prompt, noRepeatNgramSize=0, repetitionPenalty=1)
