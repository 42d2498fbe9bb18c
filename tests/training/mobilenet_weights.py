"""A file of MobileNetV2's weights as ``keras.applications`` publishes them, with numbers that are drawn."""

from __future__ import annotations

from pathlib import Path

import h5py
import keras
import numpy as np


def write_mobilenet_weights(path: Path, alpha: float = 0.35, seed: int = 0) -> Path:
    """Layers in order, each a group with the names of its weights: the HDF5 of Keras 2."""
    rng = np.random.default_rng(seed)
    model = keras.applications.MobileNetV2(input_shape=(None, None, 3), alpha=alpha, include_top=False, weights=None)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{weight.name}:0" for weight in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.weights, strict=True):
                value = weight.numpy()
                if value.ndim == 4:
                    value = rng.normal(0, np.sqrt(2 / np.prod(value.shape[:3])), value.shape)
                elif name.endswith(("gamma:0", "variance:0")):
                    value = rng.uniform(0.7, 1.4, value.shape)
                else:
                    value = rng.normal(0, 0.1, value.shape)
                group.create_dataset(name, data=value.astype(np.float32))
    return path
