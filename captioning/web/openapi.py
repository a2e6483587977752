"""The description of the API, made from what checks requests, shapes answers and names errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from captioning.errors import CaptioningError, InternalError, MethodNotAllowed, NotFound, Unauthorized
from captioning.pictures.formats import NAMES
from captioning.trace import STAGES
from captioning.web.answers import (
    CaptionAnswer,
    CaptionLine,
    CaptionsAnswer,
    ErrorAnswer,
    HealthAnswer,
    PictureErrorLine,
    VerboseReadinessAnswer,
)
from captioning.web.fields import MAX_IMAGES, Options, PictureFields, PicturesFields

_REF = "#/components/schemas/{model}"
_ANSWERS: tuple[type[BaseModel], ...] = (
    CaptionAnswer, CaptionsAnswer, CaptionLine, PictureErrorLine, ErrorAnswer, HealthAnswer, VerboseReadinessAnswer,
)  # fmt: skip
_BYTES = {"type": "string", "contentMediaType": "application/octet-stream"}
_REQUESTS: tuple[type[BaseModel], ...] = (PictureFields, PicturesFields)

Json = dict[str, Any]


class _WithoutTitles(GenerateJsonSchema):
    """Leave out the titles that pydantic makes of the fields' names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def describe_api(*, keys_needed: bool) -> Json:
    """Return the OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.1.html)."""
    impossible = {NotFound, MethodNotAllowed} if keys_needed else {NotFound, MethodNotAllowed, Unauthorized}
    errors = [error for error in error_classes() if error not in impossible]
    description: Json = {
        "openapi": "3.1.1",
        "info": {
            "title": "SmartScan captioning",
            "version": "1.0.0",
            "description": "Answers a picture with a sentence about it, made by BLIP.",
        },
        "servers": [{"url": "."}],
        "paths": {
            "/local-caption": {"post": _caption_operation(errors)},
            "/local-captions": {"post": _captions_operation(errors)},
            "/healthz": {"get": _health_operation()},
            "/readyz": {"get": _readiness_operation()},
        },
        "components": {"schemas": _schemas()},
    }
    # Refused before any route is found: see captioning.server.protocol_errors.
    before = {
        "414": _answer("the URL is too long", ErrorAnswer),
        "431": _answer("the headers are too large", ErrorAnswer),
    }
    for operations in description["paths"].values():
        for operation in operations.values():
            operation["responses"] |= before
    if keys_needed:
        description["components"]["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer"}}
        for path in ("/local-caption", "/local-captions"):
            description["paths"][path]["post"]["security"] = [{"apiKey": []}]
    return description


def error_classes(root: type[CaptioningError] = CaptioningError) -> Iterator[type[CaptioningError]]:
    """Yield the classes of the tree that are raised, in its order."""
    for error in root.__subclasses__():
        if error.__module__ != root.__module__:
            continue  # another cause of the same failure
        if "code" in vars(error) or not error.__subclasses__():
            yield error
        yield from error_classes(error)


def _caption_operation(errors: list[type[CaptioningError]]) -> Json:
    form = _schema(PictureFields)
    return {
        "operationId": "caption",
        "summary": "Caption one picture",
        "description": f"{NAMES}, by content. Of an animation, the first frame.",
        "parameters": [*_request_headers(), *_option_parameters()],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _ref(PictureFields)},
                "multipart/form-data": {"schema": {"anyOf": [_upload(_BYTES), form]}},
                "application/x-www-form-urlencoded": {"schema": form},
                "image/*": {"schema": _BYTES},
            },
        },
        "responses": {"200": _answer("The caption.", CaptionAnswer, _caption_headers()), **_error_answers(errors)},
    }


def _captions_operation(errors: list[type[CaptioningError]]) -> Json:
    done = _answer("For each picture, in order, its caption or its error.", CaptionsAnswer)
    done["content"]["application/x-ndjson"] = {"schema": {"anyOf": [_ref(CaptionLine), _ref(PictureErrorLine)]}}
    return {
        "operationId": "captions",
        "summary": "Caption several pictures",
        "description": "Each is admitted, timed and cached as a single one is; one failure does not harm the others. "
        "With `Accept: application/x-ndjson`, one line a picture comes as soon as it is done.",
        "parameters": [*_request_headers(), *_option_parameters()],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _ref(PicturesFields)},
                "multipart/form-data": {"schema": _upload({"type": "array", "items": _BYTES, "maxItems": MAX_IMAGES})},
            },
        },
        "responses": {"200": done, **_error_answers(errors)},
    }


def _health_operation() -> Json:
    return {
        "operationId": "health",
        "summary": "Tell that the process serves",
        "responses": {"200": _answer("It does.", HealthAnswer), **_error_answers([InternalError])},
    }


def _readiness_operation() -> Json:
    return {
        "operationId": "readiness",
        "summary": "Tell whether the model is ready",
        "parameters": [
            {
                "name": "verbose",
                "in": "query",
                "description": "if given, with any value: tell how near an int8 export is to its model, too",
                "schema": {"type": "string"},
            }
        ],
        "responses": {
            "200": _answer("The model has captioned its warm-up picture.", VerboseReadinessAnswer),
            "503": _answer("Not yet, or no more.", VerboseReadinessAnswer),
            **_error_answers([InternalError]),
        },
    }


def _request_headers() -> list[Json]:
    return [
        {
            "name": "X-Request-Id",
            "in": "header",
            "description": "comes back in the answer and stands in the log; made if it is missing or odd",
            "schema": {"type": "string"},
        },
        {
            "name": "X-Request-Timeout-Ms",
            "in": "header",
            "description": "how long the caller waits, in milliseconds; at most REQUEST_TIMEOUT_S, or an hour for "
            "several pictures",
            "schema": {"type": "integer", "minimum": 1},
        },
    ]


def _option_parameters() -> list[Json]:
    return [
        {
            "name": name,
            "in": "query",
            "description": f"{schema['description']}; the body's counts first",
            "schema": schema,
        }
        for name, schema in _options().items()
    ]


def _options() -> Json:
    """Return the options' schemas without null, which neither a form nor a query can say."""
    properties: Json = Options.model_json_schema(schema_generator=_WithoutTitles)["properties"]
    return {name: {**schema["anyOf"][0], "description": schema["description"]} for name, schema in properties.items()}


def _upload(image: Json) -> Json:
    return {"type": "object", "properties": {"image": image, **_options()}, "required": ["image"]}


def _schema(model: type[BaseModel]) -> Json:
    schema = model.model_json_schema(schema_generator=_WithoutTitles)
    return {"type": "object", "properties": {**schema["properties"], **_options()}, "required": schema["required"]}


def _caption_headers() -> Json:
    return {
        "Server-Timing": _header(f"{', '.join(STAGES)}, in ms (W3C Server Timing)"),
        "X-Cache": _header("hit or miss"),
    }


def _answer(description: str, model: type[BaseModel], headers: Json | None = None) -> Json:
    return {
        "description": description,
        "headers": {"X-Request-Id": _header("the request's id"), **(headers or {})},
        "content": {"application/json": {"schema": _ref(model)}},
    }


def _error_answers(errors: list[type[CaptioningError]]) -> Json:
    """Return one answer a status, with an example for each of its codes."""
    answers: Json = {}
    for status in sorted({error.status for error in errors}):
        examples = {
            error.code: {
                "summary": (error.__doc__ or "").strip(),
                "value": {"error": error.sentence, "code": error.code, "requestId": "b5c0b1f7"},
            }
            for error in errors
            if error.status == status
        }
        answer = _answer(", ".join(examples), ErrorAnswer)
        answer["content"]["application/json"]["examples"] = examples
        if status in (429, 502, 503):
            answer["headers"]["Retry-After"] = _header("seconds after which to ask again (RFC 9110, section 10.2.3)")
        answers[str(status)] = answer
    return answers


def _header(description: str) -> Json:
    return {"description": description, "schema": {"type": "string"}}


def _ref(model: type[BaseModel]) -> Json:
    return {"$ref": _REF.format(model=model.__name__)}


def _schemas() -> Json:
    _, answers = models_json_schema(
        [(model, "serialization") for model in _ANSWERS], ref_template=_REF, schema_generator=_WithoutTitles
    )
    _, requests = models_json_schema(
        [(model, "validation") for model in _REQUESTS], ref_template=_REF, schema_generator=_WithoutTitles
    )
    return {**answers["$defs"], **requests["$defs"]}
