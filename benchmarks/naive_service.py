"""The service that people write first: Flask, transformers, and gunicorn's default of one synchronous worker.

    MODEL_ID=build/blip-base gunicorn benchmarks.naive_service:app

It is what benchmarks/load.py compares with, and is meant to be a fair example of its kind.
"""

from __future__ import annotations

import io
import os
from typing import Any

import requests
import torch
from flask import Flask, Response, jsonify, request
from PIL import Image
from transformers import BlipForConditionalGeneration, BlipProcessor

MODEL_ID = os.environ.get("MODEL_ID", "Salesforce/blip-image-captioning-base")

app = Flask(__name__)
processor: Any = BlipProcessor.from_pretrained(MODEL_ID)
model: Any = BlipForConditionalGeneration.from_pretrained(MODEL_ID).eval()


@app.get("/health")
def health() -> Response:
    """Say that the process lives."""
    return jsonify(status="ok")


@app.post("/local-caption")
def local_caption() -> tuple[Response, int] | Response:
    """Caption the picture at a URL."""
    url = (request.get_json(silent=True) or {}).get("imageUrl")
    if not url:
        return jsonify(error="imageUrl is required"), 400
    try:
        answer = requests.get(url, timeout=10)
        answer.raise_for_status()
        image = Image.open(io.BytesIO(answer.content)).convert("RGB")
    except (requests.RequestException, OSError) as error:
        return jsonify(error=f"the image could not be loaded: {error}"), 400
    inputs = processor(images=image, return_tensors="pt")
    with torch.inference_mode():
        tokens = model.generate(**inputs, max_new_tokens=20)
    return jsonify(output=processor.decode(tokens[0], skip_special_tokens=True))
