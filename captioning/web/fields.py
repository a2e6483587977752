"""The fields that requests carry, as JSON, in forms or in the query: checked here, and described by the same models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from captioning.errors import InvalidImageUrl, InvalidParameter
from captioning.model.engine import GenerationOptions
from captioning.settings import (
    MAX_NEW_TOKENS_LIMIT,
    NO_REPEAT_NGRAM_SIZE_LIMIT,
    NUM_BEAMS_LIMIT,
    REPETITION_PENALTY_LEAST,
    REPETITION_PENALTY_LIMIT,
)
from captioning.web.quoting import shown

MAX_IMAGES = 64


class Options(BaseModel):
    """Check the options, which come as JSON fields, form fields or query parameters."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", strict=True)

    prompt: Annotated[str, StringConstraints(strip_whitespace=True, max_length=500)] | None = Field(
        None, description="text that the caption continues"
    )
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        le=MAX_NEW_TOKENS_LIMIT,
        description="longest continuation in tokens, less where the model has less room",
    )
    num_beams: int | None = Field(None, ge=1, le=NUM_BEAMS_LIMIT, description="beams to search; 1 is greedy")
    no_repeat_ngram_size: int | None = Field(
        None,
        ge=0,
        le=NO_REPEAT_NGRAM_SIZE_LIMIT,
        description="no run of so many tokens stands twice in a caption; 0 allows all",
    )
    repetition_penalty: float | None = Field(
        None,
        ge=REPETITION_PENALTY_LEAST,
        le=REPETITION_PENALTY_LIMIT,
        description="above 1, tokens that are there already get less likely; below 1, more likely",
    )
    details: bool | None = Field(None, description="whether to tell how sure the model was, and which model it was")
    candidates: int | None = Field(
        None, ge=1, le=NUM_BEAMS_LIMIT, description="how many of the best captions to list, at most numBeams"
    )

    def over(self, defaults: Options) -> Options:
        """Return the defaults with what was given in their place."""
        return defaults.model_copy(update=self.model_dump(include=set(Options.model_fields), exclude_none=True))

    def generation(self, defaults: GenerationOptions) -> GenerationOptions:
        """Return those of the options that shape a caption.

        Raises:
            InvalidParameter: more candidates are asked for than there are beams.
        """
        shaping = {field.name for field in fields(GenerationOptions)}
        options = replace(defaults, **self.model_dump(include=shaping, exclude_none=True))
        if (self.candidates or 1) > options.num_beams:
            raise InvalidParameter(
                f"candidates is {self.candidates}; it must be at most numBeams, which is {options.num_beams}."
            )
        return options


class PictureFields(Options):
    """Check a body that names one picture."""

    image_url: str = Field(description="an http:, https: or data: URL", examples=["https://example.com/image.jpg"])


class PicturesFields(Options):
    """Check a body that names several pictures."""

    image_urls: list[str] = Field(
        min_length=1, max_length=MAX_IMAGES, description="http:, https: or data: URLs, captioned each for itself"
    )


Fields = TypeVar("Fields", bound=Options)


def is_empty(value: object) -> bool:
    """Tell whether a field counts as not given."""
    return value is None or (isinstance(value, str) and not value.strip())


def checked(model: type[Fields], given: Mapping[str, Any], *, strings: bool) -> Fields:
    """Return the fields of the model, those left out that are empty; ``strings`` is for forms and queries.

    Raises:
        InvalidParameter, InvalidImageUrl: a field has the wrong type or is out of range.
    """
    known = {name: given[name] for name in _names(model) if not is_empty(given.get(name))}
    try:
        return model.model_validate_strings(known) if strings else model.model_validate(known)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        value = problem["input"]
        field, *places = problem["loc"]
        if field == "imageUrl":
            raise InvalidImageUrl(_not_a_string(value)) from error
        told = f"{field}{''.join(f'[{place}]' for place in places)} is {shown(value)}"
        wanted = "a URL, as a string" if places else _wanted(model.model_json_schema()["properties"][field])
        unquoted = isinstance(value, str) and not strings and field not in ("prompt", "imageUrls")
        raise InvalidParameter(f"{told}; it must be {wanted}{', without quotes' * unquoted}.") from error


def _wanted(schema: dict[str, Any]) -> str:
    """Say in words what a field's JSON schema allows."""
    schema = schema.get("anyOf", [schema])[0]
    match schema["type"]:
        case "integer":
            return f"a whole number from {schema['minimum']} to {schema['maximum']}"
        case "number":
            return f"a number from {schema['minimum']:g} to {schema['maximum']:g}"
        case "boolean":
            return "true or false"
        case "array":
            return f"a list of {schema['minItems']} to {schema['maxItems']} URLs"
        case _:
            return f"a text of at most {schema['maxLength']} characters"


def _names(model: type[Options]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _not_a_string(value: object) -> str:
    match value:
        case list():
            return "imageUrl is a list; send one URL, or the list as imageUrls to POST /local-captions."
        case dict():
            return "imageUrl is an object; send the URL itself, as a string."
        case _:
            return f"imageUrl is {shown(value)}; it must be a string, a URL in double quotes."
