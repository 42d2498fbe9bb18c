"""What a model offers to those who serve it: a graph with named, described tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import keras
import tensorflow as tf

Family = Literal["segmentation", "mnist"]

_TF_DTYPES = {"UINT8": tf.uint8, "FP32": tf.float32}


@dataclass(frozen=True)
class Tensor:
    """One input or output.

    Attributes:
        name: in SavedModel signature, ONNX graph and protocols alike.
        dtype: as the Open Inference Protocol spells it.
        shape: -1 where the size is free; the first axis is always the batch.
        axes: a name for each axis.
        value_range: smallest and largest value, or None where unbounded.
        channel_order: "RGB", "GRAY", or None for tensors that are no pictures.
    """

    name: str
    dtype: Literal["UINT8", "FP32"]
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    value_range: tuple[float, float] | None
    channel_order: Literal["RGB", "GRAY"] | None = None

    def spec(self) -> tf.TensorSpec:
        """The TensorFlow signature entry."""
        sizes = [None if size == -1 else size for size in self.shape]
        return tf.TensorSpec(sizes, _TF_DTYPES[self.dtype], name=self.name)


@dataclass(frozen=True)
class Resizing:
    """How a picture is brought to the size at which the model is asked.

    Attributes:
        rule: ``letterbox`` keeps the aspect, centres and pads; ``stretch`` does not.
        height: pixels.
        width: pixels.
        multiple_of: the model accepts any height and width that are multiples of this; 1 with a fixed size.
        pad_value: of the letterbox's border, 0..255.
    """

    rule: Literal["letterbox", "stretch"]
    height: int
    width: int
    multiple_of: int = 1
    pad_value: int = 0


@dataclass(frozen=True)
class Servable:
    """A trained model with the graph that is exported.

    Attributes:
        family: decides which protocol methods the model answers.
        model: holds the variables.
        outputs_of: from the input tensor to the named outputs; traced once, in inference mode.
        input: the single input.
        outputs: in order.
        resizing: from a picture to the input.
        default_threshold: probability from which a pixel is foreground; None where there is no mask.
        margin_of: for outputs that jump, as those of latents cut by a threshold or by rank do: how far each input's
            intermediate values are from the nearest jump, float [N]. None for continuous outputs.
        precise_of: ``outputs_of`` computed in float64 with the same weights, for networks whose float32 arithmetic
            alone may err by more than the forms are allowed to differ. None for the others.
    """

    family: Family
    model: keras.Model
    outputs_of: Callable[[tf.Tensor], Mapping[str, tf.Tensor]]
    input: Tensor
    outputs: tuple[Tensor, ...]
    resizing: Resizing
    default_threshold: float | None
    margin_of: Callable[[tf.Tensor], tf.Tensor] | None = None
    precise_of: Callable[[tf.Tensor], Mapping[str, tf.Tensor]] | None = None

    def function(self) -> Any:
        """The graph function with the exact names of its tensors."""
        names = [output.name for output in self.outputs]

        def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
            outputs = self.outputs_of(image)
            return {name: tf.identity(outputs[name], name=name) for name in names}

        return tf.function(serve, input_signature=[self.input.spec()], autograph=False)
