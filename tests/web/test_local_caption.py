"""Captions through HTTP are those of transformers, however a picture comes and whoever shares its batch."""

from __future__ import annotations

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, BlipForConditionalGeneration, BlipImageProcessorPil, BlipProcessor

from captioning.model.preprocessor import Preprocessor
from captioning.pictures.decoder import open_image
from captioning.trace import STAGES
from tests.conftest import EMOJI_MODEL, SAMPLES, Service

OPTIONS: list[dict[str, Any]] = [
    {},
    {"prompt": "a picture of"},
    {"numBeams": 3},
    {"maxNewTokens": 3},
    {"prompt": "two", "numBeams": 2, "maxNewTokens": 8},
]


@lru_cache
def reference() -> tuple[BlipForConditionalGeneration, BlipProcessor]:
    tokenizer = AutoTokenizer.from_pretrained(EMOJI_MODEL)
    processor = BlipProcessor(BlipImageProcessorPil.from_pretrained(EMOJI_MODEL), tokenizer)
    return BlipForConditionalGeneration.from_pretrained(EMOJI_MODEL).eval(), processor


@torch.inference_mode()
def reference_caption(
    picture: bytes,
    prompt: str | None = None,
    maxNewTokens: int = 20,
    numBeams: int = 1,
) -> str:
    model, processor = reference()
    inputs = processor(images=Image.open(io.BytesIO(picture)).convert("RGB"), text=prompt, return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=maxNewTokens, num_beams=numBeams, do_sample=False)
    return str(processor.decode(tokens[0], skip_special_tokens=True)).strip()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.stem)
def test_a_caption_equals_transformers_own(service: Service, sample: Path) -> None:
    picture = sample.read_bytes()
    assert service.upload(picture).json() == {"output": reference_caption(picture)}


def test_requests_that_share_batches_do_not_see_each_other(service: Service) -> None:
    work = [(sample.read_bytes(), options) for sample in SAMPLES for options in OPTIONS]
    with ThreadPoolExecutor(32) as callers:
        responses = list(callers.map(lambda item: service.upload(item[0], params=item[1]), work))
    for (picture, options), response in zip(work, responses, strict=True):
        assert response.json() == {"output": reference_caption(picture, **options)}, options


def test_the_embedded_model_sees_what_its_samples_show(service: Service) -> None:
    truths = json.loads((EMOJI_MODEL / "samples" / "captions.json").read_text())
    right = [
        service.upload((EMOJI_MODEL / "samples" / name).read_bytes()).json()["output"] == truths[name]
        for name in truths
    ]
    assert len(right) == 12
    assert sum(right) >= 10


def test_every_form_of_input_gives_the_same_caption(service: Service, image_server: str) -> None:
    sample = SAMPLES[0]
    picture = sample.read_bytes()
    data_url = "data:image/jpeg;base64," + base64.b64encode(picture).decode()
    expected = {"output": reference_caption(picture)}
    answers = [
        service.post(json={"imageUrl": f"{image_server}/samples/{sample.name}"}),
        service.post(json={"imageUrl": data_url, "unknown": {"field": [1, 2]}, "prompt": None}),
        service.post(json={"imageUrl": data_url.rstrip("=")}),
        service.post(files={"image": ("name.exe", picture, "application/octet-stream")}),
        service.post(data={"imageUrl": data_url}, files={"none": b""}),
        service.post(data={"imageUrl": f"{image_server}/samples/{sample.name}"}),
        service.upload(picture),
        service.post(
            data=(picture[i : i + 999] for i in range(0, len(picture), 999)), headers={"Content-Type": "image/x"}
        ),
    ]
    assert [answer.json() for answer in answers] == [expected] * len(answers)


def test_options_come_as_json_form_fields_or_query(service: Service) -> None:
    picture = SAMPLES[0].read_bytes()
    options: dict[str, Any] = {"prompt": "a picture of", "maxNewTokens": 4, "numBeams": 2}
    data_url = "data:;base64," + base64.b64encode(picture).decode()
    expected = {"output": reference_caption(picture, **options)}
    assert service.post(json={"imageUrl": data_url, **options}).json() == expected
    assert service.post(files={"image": picture}, data=options).json() == expected
    assert service.upload(picture, params=options).json() == expected
    assert expected["output"].startswith("a picture of")


def test_answers_carry_ids_and_times(service: Service, image_server: str) -> None:
    asked = {"imageUrl": f"{image_server}/samples/{SAMPLES[0].name}"}
    response = service.post(json=asked, headers={"X-Request-Id": "gateway-7"})
    assert response.headers["X-Request-Id"] == "gateway-7"
    stages = dict(part.split(";dur=") for part in response.headers["Server-Timing"].split(", "))
    assert tuple(stages) == STAGES
    assert float(stages["generate"]) > 0
    made = {
        service.get("/healthz", headers={"X-Request-Id": bad}).headers["X-Request-Id"] for bad in ("", "a b", "x" * 200)
    }
    assert len(made) == 3
    assert all(len(request_id) == 32 for request_id in made)


def test_readiness_names_the_model_that_answers(service: Service) -> None:
    assert service.get("/readyz").json() == {
        "status": "ready", "model": str(EMOJI_MODEL), "revision": None, "engine": service.model["ENGINE"]
    }  # fmt: skip


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.stem)
def test_the_input_tensor_equals_the_transformers_processors(sample: Path) -> None:
    ours = Preprocessor.from_folder(EMOJI_MODEL)(open_image(sample.read_bytes(), target_size=112).decode())
    theirs = reference()[1](images=Image.open(sample).convert("RGB"), return_tensors="np")["pixel_values"][0]
    assert np.array_equal(ours, theirs)
