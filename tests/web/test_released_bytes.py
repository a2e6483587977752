"""A picture's bytes are given back when they are gone: nothing of a request keeps them until its answer."""

from __future__ import annotations

import base64
import json
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from flask import Flask

from captioning.lifecycle import Lifecycle
from captioning.limits import Limits
from captioning.model.engine import Candidates
from captioning.pipeline import EncodedPicture, Pipeline
from captioning.settings import Settings
from captioning.web.admission import Admission
from captioning.web.api_keys import ApiKeys
from captioning.web.body import ARRIVED_BODY, ArrivedBody
from captioning.web.caption_routes import caption_routes
from captioning.web.error_answers import answer_errors
from captioning.web.request_log import identify_requests
from tests.candidates import made_up
from tests.web.requests_of import multipart

PICTURE_BYTES = 2_000_000
FORM = "multipart/form-data; boundary=x"


def picture() -> bytes:
    return b"\xff\xd8\xff" + bytes(PICTURE_BYTES)


def form(pictures: int) -> bytes:
    part = 'Content-Disposition: form-data; name="image"; filename="a"'
    return multipart(*[(part, picture()) for _ in range(pictures)])


def data_url() -> str:
    return "data:image/jpeg;base64," + base64.b64encode(picture()).decode()


class AtTheModel:
    """Stages that note what memory is in use once a picture's bytes have been released."""

    def __init__(self) -> None:
        self.in_use: list[int] = []
        self._lock = threading.Lock()

    def engine_for(self, options: object) -> None:
        """Find that any options will do."""

    def caption(self, source: EncodedPicture, options: object, **others: object) -> Candidates:
        with self._lock:
            source.release()
            self.in_use.append(tracemalloc.get_traced_memory()[0])
        return made_up("a caption")


@pytest.fixture
def memory() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize(
    ("path", "content_type", "body"),
    [
        pytest.param("/local-caption", "image/jpeg", picture, id="bytes"),
        pytest.param("/local-caption", FORM, lambda: form(1), id="form"),
        pytest.param(
            "/local-caption", "application/json", lambda: json.dumps({"imageUrl": data_url()}).encode(), id="data: URL"
        ),
        pytest.param("/local-captions", FORM, lambda: form(3), id="form of several"),
        pytest.param(
            "/local-captions",
            "application/json",
            lambda: json.dumps({"imageUrls": [data_url() for _ in range(3)]}).encode(),
            id="several data: URLs",
        ),
    ],
)
def test_nothing_of_a_picture_stays_in_memory_behind_its_decoding(
    path: str, content_type: str, body: Callable[[], bytes]
) -> None:
    settings = Settings()
    limits = Limits.from_settings(settings)
    admission = Admission(Lifecycle(), ApiKeys(settings.api_keys, limits.requests), limits, lambda: 1.0)
    model = AtTheModel()
    app = Flask(__name__)
    identify_requests(app)
    answer_errors(app)
    pipeline = cast(Pipeline, model)
    app.register_blueprint(caption_routes(settings, admission, pipeline, lambda trace: None, name="", revision=None))
    statuses: list[str] = []

    def environ() -> dict[str, Any]:
        with limits.bodies.hold() as hold:
            return {
                "REQUEST_METHOD": "POST",
                "PATH_INFO": path,
                "CONTENT_TYPE": content_type,
                "SERVER_NAME": "x",
                "SERVER_PORT": "80",
                "wsgi.url_scheme": "http",
                ARRIVED_BODY: ArrivedBody(body(), hold),
            }

    before = tracemalloc.get_traced_memory()[0]
    for piece in app(environ(), lambda status, headers, *_: statuses.append(status)):  # type: ignore[arg-type]
        assert piece
    assert statuses == ["200 OK"]
    assert model.in_use[-1] - before < PICTURE_BYTES / 2
