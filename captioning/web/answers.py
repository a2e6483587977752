"""What the service answers in JSON: the models that shape it are the ones that describe it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic.json_schema import SkipJsonSchema

from captioning.lifecycle import Readiness
from captioning.model.int8.manifest import Fidelity

# A field that an answer may lack, and that is then not null but absent: answers show the fields that were set.
Absent = SkipJsonSchema[None]


class _Answer(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)

    def shown(self) -> dict[str, Any]:
        """Return what is sent: the fields that were set, by their names in JSON."""
        return self.model_dump(by_alias=True, exclude_unset=True)


class CandidateAnswer(_Answer):
    """Hold one of the captions that a search with beams found."""

    output: str
    score: float = Field(description="mean log-probability of the tokens, by which candidates are ranked")


class CaptionAnswer(_Answer):
    """Hold the caption of one picture, with what else was asked for."""

    output: str = Field(examples=["a person sitting on a bench in a park"])
    confidence: float | Absent = Field(
        None, ge=0, le=1, description="with details: geometric mean of the tokens' probabilities, the end's among them"
    )
    tokens: int | Absent = Field(None, ge=0, description="with details: what the caption consists of, less its prompt")
    finish_reason: Literal["end", "length"] | Absent = Field(
        None, description="with details: whether the caption ended by itself, or at maxNewTokens"
    )
    model: str | Absent = Field(None, description="with details: hub name or folder")
    revision: str | None = Field(None, description="with details: commit of a hub model")
    engine: str | Absent = Field(None, description="with details: what runs the model")
    candidates: list[CandidateAnswer] | Absent = Field(None, description="with candidates: the best captions, in order")


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
    index: int = Field(description="place in the request, from 0")


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
