"""The reader of ``manifest.json``, the only contract between training and serving.

``tests/contract/manifest.golden.json`` is the truth about its form. Unknown fields are refused; one that came later is
optional here, and one without which a model cannot be served would be a new ``schema_version``. The files a manifest
speaks about are checked elsewhere (``backend.py``).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
    ValidationError,
    model_validator,
)

from serving.errors import ManifestError

FILE_NAME = "manifest.json"

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Axis = Annotated[int, Field(ge=-1)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", protected_namespaces=())


class TensorSpec(_Part):
    """One input or output. ``shape`` has -1 where the size is free; its first axis is the batch and always free."""

    name: Name
    dtype: Literal["UINT8", "FP32"]
    shape: tuple[Axis, ...]
    axes: tuple[str, ...]
    value_range: tuple[Finite, Finite] | None
    channel_order: Literal["RGB", "GRAY"] | None

    @model_validator(mode="after")
    def _shape_is_whole(self) -> Self:
        if len(self.shape) < 2 or self.shape[0] != -1 or 0 in self.shape:
            raise ValueError(
                f"shape starts with a free batch axis and has no empty one, e.g. [-1, 784], not {self.shape}"
            )
        if len(self.axes) != len(self.shape) or self.axes[0] != "batch":
            raise ValueError(f"axes name each axis of the shape {self.shape}, 'batch' first, not {self.axes}")
        if self.value_range is not None and self.value_range[0] >= self.value_range[1]:
            raise ValueError(f"value_range is [low, high] with low < high, not {self.value_range}")
        return self

    @property
    def numpy_dtype(self) -> npt.DTypeLike:
        """The dtype as numpy names it; little-endian, as on the wire."""
        return np.dtype(np.uint8 if self.dtype == "UINT8" else "<f4")

    def free_pixels(self, shape: Sequence[int]) -> int | None:
        """Pixels of each row of an array [rows, height, width, ...]; None where the model fixes its size."""
        return math.prod(shape[1:3]) if len(self.shape) == 4 and -1 in self.shape[1:3] else None


class Resizing(_Part):
    """How a picture of any size becomes the model's input; ``imaging.resize`` does it."""

    rule: Literal["letterbox", "stretch"]
    height: PositiveInt
    width: PositiveInt
    multiple_of: PositiveInt
    pad_value: Annotated[int, Field(ge=0, le=255)]

    @model_validator(mode="after")
    def _size_fits(self) -> Self:
        if self.height % self.multiple_of or self.width % self.multiple_of:
            raise ValueError(f"{self.height} x {self.width} is not made of multiples of {self.multiple_of}")
        return self


class Training(_Part):
    """Where the weights come from."""

    experiment: str
    preset: str
    dataset: str
    data_source: Literal["real", "embedded"]
    seed: int
    code_revision: str
    date: AwareDatetime
    settings: dict[str, JsonValue] = Field(default_factory=dict)


class Parity(_Part):
    """How far Keras, SavedModel and ONNX Runtime lay apart at export."""

    tolerance: Finite
    largest_difference: Finite
    batches: tuple[PositiveInt, ...]
    excluded_rows: NonNegativeInt


class Manifest(_Part):
    """All that the server knows about one model version before it opens ``model.onnx``."""

    schema_version: Literal[1]
    name: Name
    version: PositiveInt
    family: Literal["segmentation", "mnist"]
    inputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    outputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    resizing: Resizing
    default_threshold: Annotated[float, Field(ge=0.0, le=1.0)] | None
    training: Training
    scores: dict[str, Finite]
    parity: Parity
    onnx_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    producers: dict[str, str]

    @model_validator(mode="after")
    def _family_is_kept(self) -> Self:
        names = [spec.name for spec in (*self.inputs, *self.outputs)]
        if len(set(names)) != len(names):
            raise ValueError(f"each tensor has its own name, not {names}")
        if len(self.inputs) != 1 or self.inputs[0].name != "image":
            raise ValueError(f"inputs holds one tensor named 'image', not {[spec.name for spec in self.inputs]}")
        wanted = _FAMILIES[self.family]
        image = self.inputs[0]
        if (image.dtype, image.channel_order, len(image.shape)) != (wanted.dtype, wanted.channel_order, wanted.rank):
            raise ValueError(
                f"the image of family {self.family} is {wanted.dtype} {wanted.channel_order} of rank {wanted.rank},"
                f" not {image.dtype} {image.channel_order} of rank {len(image.shape)}"
            )
        # A picture resized by the rule must be something the model takes.
        sizes = (self.resizing.height, self.resizing.width, 3)
        resized = sizes if wanted.rank == 4 else (math.prod(sizes[:2]),)
        if any(fixed not in (-1, size) for fixed, size in zip(image.shape[1:], resized, strict=True)):
            raise ValueError(f"resizing makes {list(resized)} of a picture, but the image's shape is {image.shape}")
        if self.output(wanted.output) is None:
            raise ValueError(
                f"family {self.family} has an output named '{wanted.output}', not only {self.output_names}"
            )
        if (self.default_threshold is None) != (self.family != "segmentation"):
            raise ValueError("default_threshold is a number for segmentation and null for other families")
        return self

    @property
    def image(self) -> TensorSpec:
        """The one input."""
        return self.inputs[0]

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in the manifest's order."""
        return tuple(spec.name for spec in self.outputs)

    def shape_of(self, spec: TensorSpec, rows: int) -> tuple[int, ...]:
        """The shape of so many rows of a tensor, of pictures that were brought to the model's size."""
        sizes = {"batch": rows, "height": self.resizing.height, "width": self.resizing.width}
        return tuple(
            sizes.get(axis, 1) if size == -1 else size for size, axis in zip(spec.shape, spec.axes, strict=True)
        )

    def free_pixels(self) -> int | None:
        """Pixels of a picture that was brought to the model's size; None where the model takes no other."""
        return self.image.free_pixels(self.shape_of(self.image, 1))

    def output(self, name: str) -> TensorSpec | None:
        """The output of that name, or None."""
        return next((spec for spec in self.outputs if spec.name == name), None)


class _Family(BaseModel):
    dtype: str
    channel_order: str
    rank: int
    output: str


_FAMILIES = {
    "segmentation": _Family(dtype="UINT8", channel_order="RGB", rank=4, output="mask"),
    "mnist": _Family(dtype="FP32", channel_order="GRAY", rank=2, output="encoding"),
}


def read(path: Path) -> Manifest:
    """Reads and checks one manifest.

    Args:
        path: the ``manifest.json``.

    Raises:
        ManifestError: it is missing or breaks the contract; the message names file, field, expectation and what came.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        complaints = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'the whole'}: {each['msg']}. Received: {_brief(each['input'])}"
            for each in error.errors()
        )
        raise ManifestError(f"{path}: {complaints}") from None


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
