"""What `make export` leaves in a folder for the int8 engine, described by its manifest.

encoder.onnx and decoder.onnx with a .weights file each, tokenizer.json, preprocessor_config.json and int8.json.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

MANIFEST = "int8.json"
FORMAT_VERSION = 3


# In the manifest as here, in the service's answers as there.
_SHOWN = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)


class LayerFidelity(BaseModel):
    """Tell how large one layer's outliers are, and what quantising it costs; errors are relative, the worst matrix'."""

    model_config = _SHOWN

    layer: str
    outliers: float  # the largest channel over the one in the middle, as the checkpoint has it
    balanced_outliers: float
    plain_error: float  # of the product of weights and activations, quantised as the checkpoint has them
    error: float  # the same, as exported
    hidden_error: float | None  # of what the layer leaves in the exported graph, all layers before it included
    exact: tuple[str, ...]  # matrices that stay float32


class Fidelity(BaseModel):
    """Tell how near the export came to its float32 model on the calibration pictures."""

    model_config = _SHOWN

    pictures: int
    identical: int  # captions
    logits_error_median: float
    logits_error_worst: float
    layers: tuple[LayerFidelity, ...]

    def __str__(self) -> str:
        return (
            f"{self.identical} of {self.pictures} captions are float32's, and the logits differ by "
            f"{self.logits_error_median:.1%} in the median and {self.logits_error_worst:.1%} at worst"
        )


class Manifest(BaseModel):
    """Say what the folder was made from, and what the engine must know beyond the graphs."""

    model_config = ConfigDict(frozen=True)

    format_version: int = FORMAT_VERSION
    source: str  # hub name or folder
    revision: str | None  # commit of a hub model
    weights_sha256: str  # of the checkpoint's file of weights

    image_tokens: int
    text_layers: int
    text_heads: int
    head_width: int
    max_position_embeddings: int

    bos_token_id: int
    sep_token_id: int  # ends a caption

    fidelity: Fidelity | None = None  # none only while it is measured

    def write(self, folder: Path) -> None:
        """Write int8.json."""
        (folder / MANIFEST).write_text(self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read int8.json.

        Raises:
            ValueError: there is none, it is broken, or it is of another version of the format.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise ValueError(f"{folder} is no folder with a file {MANIFEST} in it, so it is not an int8 export")
        try:
            version = _Version.model_validate_json(path.read_bytes()).format_version
            if version != FORMAT_VERSION:
                raise ValueError(
                    f"{folder} is an int8 export of format {version}, and this version of the service reads "
                    f"format {FORMAT_VERSION}"
                )
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            field = ".".join(map(str, error.errors()[0]["loc"])) or "its JSON"
            raise ValueError(f"{path} is broken at {field}") from error


class _Version(BaseModel):
    format_version: int
