"""Writing a sparse auto-encoder in the layout that sparse auto-encoder tools read.

::

    sae/sae_weights.safetensors    W_enc [V, D], b_enc [D], W_dec [D, V], b_dec [V], threshold [D] where there is one
    sae/cfg.json                   architecture, d_in, d_sae, k, dtype, normalisation, and in metadata where it is from

Read as ``z = activation((x − b_dec) W_enc + b_enc)`` and ``x̂ = z W_dec + b_dec`` with x in 0..1; whatever scaling a
model does must be folded into its arrays before. The architecture names the activation of inference:

- ``topk``: the k largest of a row, rectified;
- ``jumprelu``: what exceeds the threshold. A BatchTopK model is written so too, as SAELens does, since its training
  form depends on the batch; ``metadata.trained_as`` keeps the name.

The k-sparse auto-encoder has no such form: it keeps negative latents where they are among the k largest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from training.files import write_json, written_whole

FOLDER = "sae"
WEIGHTS = "sae_weights.safetensors"
CONFIG = "cfg.json"

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class SaeLayout:
    """A trained sparse auto-encoder as arrays.

    Attributes:
        architecture: the activation of inference.
        trained_as: the activation of training.
        W_enc: float32 [V, D].
        b_enc: float32 [D].
        W_dec: float32 [D, V].
        b_dec: float32 [V]; subtracted from the input too.
        threshold: float32 [D] for ``jumprelu``.
        k: for ``topk``.
    """

    architecture: Literal["topk", "jumprelu"]
    trained_as: Literal["topk", "batchtopk", "jumprelu"]
    W_enc: Floats
    b_enc: Floats
    W_dec: Floats
    b_dec: Floats
    threshold: Floats | None = None
    k: int | None = None


def write_sae(layout: SaeLayout, metadata: Mapping[str, Any], folder: Path) -> None:
    """Writes ``folder/sae/``.

    Args:
        layout: the arrays.
        metadata: where the model is from: names, data set, seed; plain JSON values.
        folder: of the model version.

    Raises:
        ValueError: arrays that do not fit together, or lack what the architecture needs.
    """
    d_in, d_sae = layout.W_enc.shape
    arrays = {
        name: array
        for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
        if (array := getattr(layout, name)) is not None
    }
    latent, value = (d_sae,), (d_in,)
    shapes = {"W_enc": value + latent, "b_enc": latent, "W_dec": latent + value, "b_dec": value, "threshold": latent}
    for name, array in arrays.items():
        if array.shape != shapes[name] or array.dtype != np.float32:
            raise ValueError(f"{name} must be float32 {shapes[name]}. Received: {array.dtype} {array.shape}")
    needed = {"topk": "k", "jumprelu": "threshold"}[layout.architecture]
    if getattr(layout, needed) is None:
        raise ValueError(f"architecture '{layout.architecture}' must have {needed}. Received: None")
    config = {
        "architecture": layout.architecture,
        "d_in": d_in,
        "d_sae": d_sae,
        **({"k": layout.k} if layout.k is not None else {}),
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"trained_as": layout.trained_as, **metadata},
    }
    with written_whole(folder / FOLDER / WEIGHTS) as temporary:
        # safetensors writes the bytes as they lie in memory
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary)
    write_json(folder / FOLDER / CONFIG, config)
