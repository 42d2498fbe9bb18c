from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from training.datasets.pedestrians import PedestrianData, held_out
from training.experiments import EXPERIMENTS
from training.experiments.base import ExperimentError
from training.losses.segmentation import binary_crossentropy, soft_dice

SMALL = {"stem": "4", "widths": "8,8,8,8", "bottleneck": "8", "train_height": "32", "train_width": "32"}


def test_a_fold_holds_out_a_third_of_the_training_pictures_and_no_test_picture(street_data: PedestrianData) -> None:
    folds = [held_out(street_data, fold) for fold in range(3)]
    everything = {scene.name for scene in street_data.train}
    assert [fold.name for fold in folds] == [f"{street_data.name}_fold_{number}" for number in range(3)]
    for fold in folds:
        train, test = ({scene.name for scene in part} for part in (fold.train, fold.test))
        assert train | test == everything
        assert not train & test
        assert abs(len(test) - len(everything) / 3) < 1
    assert sum(len(fold.test) for fold in folds) == len(everything)
    again = held_out(street_data, 1)
    assert [scene.name for scene in again.train] == [scene.name for scene in folds[1].train]


def test_a_fold_is_a_setting() -> None:
    experiment = EXPERIMENTS["pedestrian_unet"]
    whole = experiment.load_data("embedded")
    part = experiment.with_settings({"fold": "0"}).load_data("embedded")
    assert {scene.name for scene in part.test} < {scene.name for scene in whole.train}
    for name in ("pedestrian_unet", "pedestrian_plain", "pedestrian_sparse_elu"):
        with pytest.raises(ExperimentError, match=rf"{name}: fold must lie in -1\.\.2\. Received: 3"):
            EXPERIMENTS[name].with_settings({"fold": "3"})
    with pytest.raises(ValueError, match=r"a fold in 0\.\.2\. Received: -1"):
        held_out(whole, -1)


def test_the_auxiliary_loss_is_the_same_loss_on_masks_of_a_quarter(street_data: PedestrianData) -> None:
    settings = {**SMALL, "auxiliary_weight": "0.5", "epochs": "1", "precision": "float32"}
    experiment = EXPERIMENTS["pedestrian_unet"].with_settings(settings)
    model = experiment.build()
    program = experiment.program(model, street_data)
    pair = program.state["model"]
    batch = next(iter(program.batches(0)))
    twin = tf.keras.models.clone_model(pair)
    twin.set_weights(pair.get_weights())
    logits, quarter = twin(batch[0], training=True)
    mask = batch[1]
    share = tf.reshape(mask, (len(mask), 8, 4, 8, 4)).numpy().mean(axis=(2, 4))[..., np.newaxis]
    auxiliary = binary_crossentropy(share, quarter) + soft_dice(share, quarter)
    expected = binary_crossentropy(mask, logits) + soft_dice(mask, logits) + 0.5 * auxiliary
    scalars = program.step(batch)
    assert float(scalars["auxiliary"]) == pytest.approx(float(auxiliary), rel=1e-4)
    assert float(scalars["loss"]) == pytest.approx(float(expected), rel=1e-4)
    # what is scored and exported has no such head
    assert "quarter_logits" not in {layer.name for layer in model.layers}


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_a_step_in_either_precision_lowers_the_loss_of_its_batch(street_data: PedestrianData, precision: str) -> None:
    experiment = EXPERIMENTS["pedestrian_unet"].with_settings({**SMALL, "precision": precision, "paste": "0.5"})
    model = experiment.build()
    program = experiment.program(model, street_data)
    batch = next(iter(program.batches(0)))
    losses = [float(program.step(batch)["loss"]) for _ in range(30)]
    assert losses[-1] < losses[0]
    assert model(batch[0]).dtype == tf.float32


def test_the_last_epochs_show_people_as_the_service_does(street_data: PedestrianData) -> None:
    settings = {**SMALL, "epochs": "10", "settling": "0.3", "settled_zoom": "1.1,1.2", "paste": "1.0"}
    experiment = EXPERIMENTS["pedestrian_unet"].with_settings(settings)
    program = experiment.program(experiment.build(), street_data)
    for epoch, shown in (
        (6, experiment.batches(street_data, 6)),
        (7, experiment.batches(street_data, 7, (1.1, 1.2), 0.0)),
    ):
        for one, other in zip(program.batches(epoch), shown, strict=True):
            np.testing.assert_array_equal(one[0], other[0])
            np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("zoom", "1.0", r"zoom must be a smallest and a largest zoom above 0, as 0\.45,1\.35\. Received: 1\.0"),
        ("zoom", "1.3,0.5", r"Received: 1\.3,0\.5"),
        ("settled_zoom", "0,1", r"settled_zoom must be .* Received: 0\.0,1\.0"),
        ("settled_rate", "0", r"settled_rate must be finite and above 0\. Received: 0\.0"),
    ],
)
def test_zooms_and_rates_that_are_none_are_refused(setting: str, value: str, message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        EXPERIMENTS["pedestrian_unet"].with_settings({setting: value})


def test_something_must_come_before_the_last_epochs() -> None:
    with pytest.raises(ExperimentError, match=r"settling must lie in 0\.\.1, 1 excluded\. Received: 1\.0"):
        EXPERIMENTS["pedestrian_unet"].with_settings({"settling": "1"})
