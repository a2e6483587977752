"""What the service answers in JSON: the models that shape it are the ones that describe it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from captioning.lifecycle import Readiness
from captioning.model.int8.manifest import Fidelity


class _Answer(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


class CaptionAnswer(_Answer):
    """Hold the caption of one picture."""

    output: str = Field(examples=["a person sitting on a bench in a park"])


class PictureError(_Answer):
    """Tell why one picture of several has no caption."""

    error: str = Field(description="one sentence a person can act on")
    code: str = Field(description="the same failure for programs; never translated or reworded")


class ErrorAnswer(PictureError):
    """Tell why a request failed."""

    request_id: str = Field(description="what to look for in the service's log")


class CaptionsAnswer(_Answer):
    """Hold the captions of several pictures, in the order in which they were asked for."""

    outputs: list[CaptionAnswer | PictureError]


class _Line(_Answer):
    index: int = Field(description="place in imageUrls, from 0")


class CaptionLine(CaptionAnswer, _Line):
    """Hold the caption of one picture of several, with its place in the request."""


class PictureErrorLine(PictureError, _Line):
    """Tell why one picture of several has no caption, with its place in the request."""


class HealthAnswer(_Answer):
    """Say that the process serves."""

    status: Literal["ok"] = "ok"


class ReadinessAnswer(_Answer):
    """Say which model answers, and whether it does yet."""

    status: Readiness
    model: str = Field(description="hub name or folder")
    revision: str | None = Field(description="commit of a hub model")
    engine: str


class VerboseReadinessAnswer(ReadinessAnswer):
    """Say also how far an int8 export was from its float32 model when it was made."""

    fidelity: Fidelity | None = Field(None, description="on calibration pictures; errors are relative")
