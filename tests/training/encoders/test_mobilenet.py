from __future__ import annotations

from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.mobilenet_weights import write_mobilenet_weights
from training.encoders.mobilenet import LOWEST, encoder_of, load_encoder, mobilenet_unet, read_weights

SMALL = {"alpha": 0.35, "widths": (8, 8, 8, 8)}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mobilenet_weights(tmp_path_factory.mktemp("weights") / "mobilenet.h5")


@pytest.fixture(scope="module")
def drawn() -> keras.Model:
    return mobilenet_unet(**SMALL, pretrained=False, seed=1)


@pytest.fixture(scope="module")
def loaded(published: Path) -> keras.Model:
    model = mobilenet_unet(**SMALL, pretrained=True, seed=0)
    load_encoder(model, read_weights(published, 0.35))
    return model


def test_it_is_small_enough() -> None:
    assert mobilenet_unet(pretrained=True).count_params() <= 1_000_000


@pytest.mark.parametrize("size", [(32, 32), (64, 96)])
def test_it_takes_any_multiple_of_32(drawn: keras.Model, size: tuple[int, int]) -> None:
    assert drawn(tf.zeros((2, *size, 3), tf.uint8)).shape == (2, *size, 1)


def test_the_scaling_inside_is_keras_own(drawn: keras.Model) -> None:
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    expected = keras.applications.mobilenet_v2.preprocess_input(every.astype(np.float32))
    np.testing.assert_allclose(drawn.get_layer("scale")(every), expected, atol=2e-7)


def test_the_seed_decides_its_weights_and_nothing_else_does(drawn: keras.Model, loaded: keras.Model) -> None:
    keras.utils.set_random_seed(77)
    same = mobilenet_unet(**SMALL, pretrained=False, seed=1).get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(drawn.get_weights(), same, strict=True))
    decoders = [model.get_layer("up4_1_conv").get_weights()[0] for model in (drawn, loaded)]
    assert not np.array_equal(*decoders)


def test_with_published_weights_the_encoder_is_mobilenet(
    published: Path, loaded: keras.Model, rng: np.random.Generator
) -> None:
    theirs = keras.applications.MobileNetV2(
        input_shape=(32, 64, 3), alpha=0.35, include_top=False, weights=str(published)
    )
    picture = rng.integers(0, 256, (2, 32, 64, 3), np.uint8)
    scaled = keras.applications.mobilenet_v2.preprocess_input(picture.astype(np.float32))
    expected = keras.Model(theirs.input, theirs.get_layer(LOWEST).output)(scaled)
    assert expected.shape == (2, 1, 2, 112)
    np.testing.assert_allclose(encoder_of(loaded)(picture), expected, atol=1e-4)


@pytest.mark.parametrize("pretrained", [True, False])
def test_the_encoders_statistics_move_only_where_they_are_its_own(
    pretrained: bool, drawn: keras.Model, loaded: keras.Model, rng: np.random.Generator
) -> None:
    model = keras.models.clone_model(loaded if pretrained else drawn)
    picture = rng.integers(0, 256, (2, 64, 64, 3), np.uint8)
    before = [weight.numpy() for weight in model.non_trainable_variables]
    model(picture, training=True)
    moved = {
        weight.path.split("/")[0].startswith("up")
        for weight, value in zip(model.non_trainable_variables, before, strict=True)
        if not np.array_equal(weight.numpy(), value)
    }
    assert moved == ({True} if pretrained else {True, False})
    encoder = encoder_of(model)
    kinds = {variable.name for variable in encoder.trainable_variables}
    assert kinds == {"kernel"} if pretrained else kinds == {"kernel", "gamma", "beta"}


def broken(path: Path, kind: str) -> tuple[Path, float]:
    """A copy of the published file with something wrong, and the width asked for."""
    copy = path.parent / f"{kind}.h5"
    copy.write_bytes(path.read_bytes())
    if kind == "cut":
        copy.write_bytes(path.read_bytes()[:100_000])
    elif kind == "absent":
        copy.unlink()
    elif kind == "nan":
        with h5py.File(copy, "r+") as file:
            file["Conv1/Conv1/kernel:0"][0] = np.nan
    elif kind == "other layers":
        with h5py.File(copy, "r+") as file:
            file.attrs["layer_names"] = file.attrs["layer_names"][:-2]
    return copy, 0.5 if kind == "other width" else 0.35


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", r"MobileNetV2 with alpha=0\.35, without the classifier.* Received: .*truncated"),
        ("absent", r"Received: .*[Uu]nable to .*open file"),
        ("other layers", r"Received: .*10\d saved layers"),
        ("other width", r"alpha=0\.5, .*Received: .*shape"),
        ("nan", r"must hold finite weights\. Received: others in Conv1"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_what_it_is(published: Path, kind: str, message: str) -> None:
    path, alpha = broken(published, kind)
    with pytest.raises(ValueError, match=message) as refused:
        read_weights(path, alpha)
    assert str(path) in str(refused.value)


def test_each_level_has_its_width() -> None:
    with pytest.raises(ValueError, match=r"a number for each of 4 levels\. Received: \(8, 8\)"):
        mobilenet_unet(0.35, (8, 8), pretrained=False)
