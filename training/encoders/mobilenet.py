"""A segmentation net whose way down is MobileNetV2, with weights learned on ImageNet where they are at hand.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv 1801.04381, as ``keras.applications``
has it, up to its lowest resolution (a 32nd of the picture's); the way up is the U-Net's. The skips are the rectified
expansions before each halving, where a level has most channels. V2 and not V3: it has no pooling over the whole picture
in between, so that what it says of a place depends on the place's surroundings alone, in a tile as in a frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from training.encoders.unet import NORM_MOMENTUM, kernel_seeds, way_up

SKIPS = ("block_1_expand_relu", "block_3_expand_relu", "block_6_expand_relu", "block_13_expand_relu")
"""At a half, a quarter, an eighth and a sixteenth of the resolution."""
LOWEST = "block_16_project_BN"
ALPHAS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
"""Widths for which there are ImageNet weights."""


def mobilenet_unet(
    alpha: float = 0.5, widths: Sequence[int] = (16, 32, 48, 64), *, pretrained: bool, seed: int = 0
) -> keras.Model:
    """Builds the net; the weights of the encoder are drawn, see :func:`load_encoder`.

    Args:
        alpha: width of MobileNetV2 relative to the publication's.
        widths: channels of the decoder at each level, the highest resolution first.
        pretrained: whether the encoder is to get weights from elsewhere. Its batch normalisation then keeps statistics,
            scales and offsets, whatever is trained about it: batches of a few pictures would only spoil them.
        seed: of the initial weights.

    Returns:
        A model from ``image`` uint8 [N, H, W, 3] (RGB; H and W multiples of 32) to logits float [N, H, W, 1]. The
        scaling to -1..1, which is MobileNet's own, is part of the model.

    Raises:
        ValueError: not one width for each of the four levels.
    """
    if len(widths) != len(SKIPS):
        raise ValueError(f"widths must hold a number for each of {len(SKIPS)} levels. Received: {tuple(widths)}")
    image = keras.Input((None, None, 3), dtype="uint8", name="image")
    scaled = layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(image)
    down = keras.applications.MobileNetV2(
        input_shape=(None, None, 3), input_tensor=scaled, alpha=alpha, include_top=False, weights=None
    )
    seeds = kernel_seeds(seed)
    for layer in down.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = not pretrained
            # Keras' 0.999 is made for the hundred thousand steps of ImageNet
            layer.momentum = NORM_MOMENTUM
        elif layer.weights:
            # drawn again, for keras.applications takes no seed
            (kernel,) = layer.weights
            kernel.assign(keras.initializers.HeNormal(seed=next(seeds))(kernel.shape))
    skips = [down.get_layer(name).output for name in SKIPS]
    logits = way_up(down.get_layer(LOWEST).output, skips, widths, seeds)
    return keras.Model(image, logits, name="mobilenet_unet")


def encoder_of(model: keras.Model) -> keras.Model:
    """The way down of a :func:`mobilenet_unet`, its layers shared: from ``image`` to the lowest resolution."""
    return keras.Model(model.input, model.get_layer(LOWEST).output, name="encoder")


def read_weights(path: Path, alpha: float) -> dict[str, list[NDArray[np.float32]]]:
    """The weights of MobileNetV2 from a file as ``keras.applications`` publishes them, without the classifier.

    Args:
        path: HDF5, with a name that ends in ``.h5``.
        alpha: of the MobileNetV2 that it is for.

    Returns:
        The arrays of each layer by its name.

    Raises:
        ValueError: the file is missing, broken or for another network; names file, expectation and what came.
    """
    whole = keras.applications.MobileNetV2(input_shape=(None, None, 3), alpha=alpha, include_top=False, weights=None)
    try:
        whole.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"{path} must hold Keras' weights of MobileNetV2 with alpha={alpha}, without the classifier, in HDF5 "
            f"(.h5). Received: {said}"
        ) from error
    arrays = {layer.name: layer.get_weights() for layer in whole.layers if layer.weights}
    broken = [name for name, values in arrays.items() if not all(np.isfinite(each).all() for each in values)]
    if broken:
        raise ValueError(f"{path} must hold finite weights. Received: others in {', '.join(broken)}")
    return arrays


def load_encoder(model: keras.Model, weights: Mapping[str, Sequence[NDArray[Any]]]) -> None:
    """Gives the way down of ``model`` the weights that :func:`read_weights` has read."""
    for layer in encoder_of(model).layers:
        if layer.weights:
            layer.set_weights(weights[layer.name])
