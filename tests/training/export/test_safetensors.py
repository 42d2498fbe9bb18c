from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from training.export.safetensors import SaeLayout, write_sae
from training.runs import Run

NAMES = ["mnist_top_k", "mnist_batch_top_k", "mnist_jump_relu"]


def arrays(d_in: int = 4, d_sae: int = 6) -> dict[str, np.ndarray]:
    shapes = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", NAMES)
def test_arrays_alone_encode_and_decode_as_the_model_does(
    tiny_models: Path, tiny_runs: dict[str, Run], name: str
) -> None:
    folder = tiny_models / name / "1" / "sae"
    weights, config = load_file(folder / "sae_weights.safetensors"), json.loads((folder / "cfg.json").read_text())
    run = tiny_runs[name]
    model, x = run.model(), run.data.test_images
    assert (config["d_in"], config["d_sae"], config["dtype"]) == (784, 64, "float32")

    z = (x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    if config["architecture"] == "topk":
        z = np.where(z >= np.sort(z, axis=1)[:, -config["k"], None], np.maximum(z, 0), 0)
    else:
        assert config["architecture"] == "jumprelu"
        z = np.where(z > weights["threshold"], z, 0)
    np.testing.assert_allclose(z, model.encode(x), atol=1e-5)
    np.testing.assert_allclose(z @ weights["W_dec"] + weights["b_dec"], model(x), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(weights["W_dec"], axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_configuration_says_where_the_model_is_from(tiny_models: Path, name: str) -> None:
    folder = tiny_models / name / "1"
    metadata = json.loads((folder / "sae" / "cfg.json").read_text())["metadata"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert metadata == {"trained_as": name.removeprefix("mnist_").replace("_", ""), **manifest["training"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b_enc": np.ones(5, np.float32)}, r"b_enc must be float32 \(6,\)\. Received: float32 \(5,\)"),
        ({"W_dec": np.ones((6, 4))}, r"W_dec must be float32 \(6, 4\)\. Received: float64"),
        ({"k": None}, "architecture 'topk' must have k"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_and_nothing_is_written(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    layout = SaeLayout("topk", "topk", **{**arrays(), "k": 2, **change})
    with pytest.raises(ValueError, match=message):
        write_sae(layout, {}, tmp_path)
    assert list(tmp_path.iterdir()) == []
