from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.training.conftest import TINY
from training.datasets.pedestrians import PedestrianData
from training.experiments import EXPERIMENTS
from training.experiments.base import ExperimentError
from training.experiments.pedestrian_autoencoders import PEDESTRIAN_AUTOENCODERS, PedestrianSparseFiltering, base
from training.runs import Run
from training.sparsity.sparse_filtering import PROGRAM_EPSILON, activated, feature_norms, sparse_filtering

NAMES = [experiment.name for experiment in PEDESTRIAN_AUTOENCODERS]
SPARSE = [name for name in NAMES if "sparse" in name]


def test_the_five_are_there_and_none_augments() -> None:
    assert NAMES == [
        "pedestrian_plain",
        "pedestrian_l1",
        "pedestrian_l2",
        "pedestrian_sparse_softabs",
        "pedestrian_sparse_elu",
    ]
    assert not any(experiment.augment for experiment in PEDESTRIAN_AUTOENCODERS)


def test_full_is_the_paper_and_blog_the_program() -> None:
    for name in SPARSE:
        full, blog = EXPERIMENTS[name], EXPERIMENTS[name].with_preset("blog")
        assert (full.epochs, full.filter_epochs, full.filter_codes, full.stage2_sf_weight) == (400, 200, 85, 0.0)
        assert full.learning_rate == 10 * full.filter_learning_rate
        assert (full.epsilon, full.forward, full.reduction) == (1e-8, "activated", "examples")
        assert (blog.epochs, blog.filter_epochs, blog.filter_codes, blog.stage2_sf_weight) == (801, 201, 5, 1.75)
        assert (blog.epsilon, blog.forward, blog.reduction) == (PROGRAM_EPSILON, "linear", "entries")
    elu = EXPERIMENTS["pedestrian_sparse_elu"]
    assert (elu.activation, elu.with_preset("blog").activation) == ("elu_abs", "elu_signed")


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_stretched_to_a_fixed_size(name: str) -> None:
    experiment = EXPERIMENTS[name]
    servable = experiment.servable(experiment.build())
    assert (servable.resizing.rule, servable.resizing.height, servable.resizing.multiple_of) == ("stretch", 96, 1)
    assert [(tensor.name, tensor.shape) for tensor in (servable.input, *servable.outputs)] == [
        ("image", (-1, 96, 96, 3)),
        ("mask", (-1, 96, 96, 1)),
        ("encoding", (-1, 9)),
    ]


def test_another_size_and_a_filtering_without_an_end_are_refused() -> None:
    with pytest.raises(ExperimentError, match=r"made for 96x96\. Received: ask_height=128"):
        EXPERIMENTS["pedestrian_plain"].with_settings({"ask_height": "128"})
    with pytest.raises(ExperimentError, match=r"filter_epochs must lie in 1\.\.199, .* Received: 200"):
        EXPERIMENTS["pedestrian_sparse_elu"].with_settings({"epochs": "200"})


@pytest.mark.parametrize("name", SPARSE)
def test_kept_norms_are_those_of_the_final_weights_over_the_training_pictures(
    tiny_runs: dict[str, Run], name: str
) -> None:
    run = tiny_runs[name]
    experiment, model = run.experiment, run.model()
    features = model.features(np.stack([experiment.asked(scene) for scene in run.data.train]))
    norms = feature_norms(features, experiment.activation, experiment.epsilon)
    np.testing.assert_allclose(model.feature_norms, norms, rtol=1e-5)
    balanced = activated(features, experiment.activation) / model.feature_norms
    np.testing.assert_allclose(np.linalg.norm(balanced, axis=0), 1.0, rtol=1e-5)
    np.testing.assert_allclose(
        np.sum(model.encode(experiment.parity_inputs(run.data)), axis=1) >= 1.0 - 1e-6, True, rtol=0
    )


@pytest.mark.parametrize("name", SPARSE)
def test_the_first_stage_lowers_the_objective_and_leaves_the_decoder(street_data: PedestrianData, name: str) -> None:
    experiment = EXPERIMENTS[name].with_settings({"epochs": "11", "filter_epochs": "10"})
    assert isinstance(experiment, PedestrianSparseFiltering)
    model = experiment.build()
    program = experiment.program(model, street_data)
    decoder = [variable.numpy() for variable in model.decoder.trainable_variables]
    pictures = np.stack([experiment.asked(scene) for scene in street_data.train])

    def objective() -> float:
        return float(sparse_filtering(model.features(pictures), experiment.activation))

    before = objective()
    for epoch in range(10):
        program.before_epoch(epoch)
        for batch in program.batches(epoch):
            program.step(batch)
    assert objective() < before - 0.02
    for variable, start in zip(model.decoder.trainable_variables, decoder, strict=True):
        np.testing.assert_array_equal(variable, start)


def test_blog_keeps_the_objective_in_the_second_stage(tmp_path: Path, street_data: PedestrianData) -> None:
    experiment = EXPERIMENTS["pedestrian_sparse_elu"].with_preset("blog")
    experiment = experiment.with_settings({"epochs": "2", "filter_epochs": "1"})
    run = Run(experiment, street_data, tmp_path / experiment.name)
    run.train()
    lines = (run.folder / "history.jsonl").read_text().splitlines()
    first, second = (json.loads(line) for line in lines)
    assert first["loss"] == pytest.approx(first["sparse_filtering"])
    expected = second["crossentropy"] + second["squared_error"] + 1.75 * second["sparse_filtering"]
    assert second["loss"] == pytest.approx(expected, rel=1e-5)
    assert second["negative_share"] > 0
    # the mean of the entries lies below a third, whatever their sign
    assert second["sparse_filtering"] <= 1 / 3


@pytest.mark.parametrize("name", ["pedestrian_plain", "pedestrian_sparse_elu"])
def test_training_ends_with_the_average_of_the_weights_over_the_steps(street_data: PedestrianData, name: str) -> None:
    settings = {"epochs": "3", "weight_average": "0.8"}
    if name in SPARSE:
        settings["filter_epochs"] = "1"
    experiment = EXPERIMENTS[name].with_settings(settings)
    model = experiment.build()
    program = experiment.program(model, street_data)
    average: list[np.ndarray] | None = None
    for epoch in range(3):
        program.before_epoch(epoch)
        for batch in program.batches(epoch):
            program.step(batch)
            if name in SPARSE and epoch == 0:
                continue
            last = [variable.numpy() for variable in model.trainable_variables]
            average = last if average is None else [0.8 * a + 0.2 * b for a, b in zip(average, last, strict=True)]
    assert average is not None
    for variable, expected in zip(model.trainable_variables, average, strict=True):
        np.testing.assert_allclose(variable, expected, rtol=1e-4, atol=1e-6)
    assert any(not np.allclose(a, b, rtol=1e-3) for a, b in zip(average, last, strict=True))


def test_an_average_of_everything_is_refused() -> None:
    with pytest.raises(ExperimentError, match=r"weight_average must lie in 0\.\.1, 1 excluded\. Received: 1\.0"):
        EXPERIMENTS["pedestrian_plain"].with_settings({"weight_average": "1"})


@pytest.mark.parametrize(("name", "penalty"), [("pedestrian_l1", "l1"), ("pedestrian_l2", "l2")])
def test_the_penalty_leaves_out_bottleneck_and_pools(street_data: PedestrianData, name: str, penalty: str) -> None:
    experiment = EXPERIMENTS[name]
    model = experiment.build()
    batch = next(iter(experiment.batches(street_data, 0)))
    scalars = experiment.segmentation_objective(model)(batch)
    kernels = [w.numpy() for w in model.trainable_variables if len(w.shape) == 4]
    power, factor = {"l1": (1, 1.0), "l2": (2, 0.5)}[penalty]
    expected = factor * sum(float(np.sum(np.abs(kernel) ** power)) for kernel in kernels)
    assert float(scalars["penalty"]) == pytest.approx(expected, rel=1e-5)
    rest = float(scalars["crossentropy"] + scalars["squared_error"])
    assert float(scalars["loss"]) == pytest.approx(rest + 0.005 * expected, rel=1e-5)


def test_augmentation_is_a_setting(street_data: PedestrianData) -> None:
    plain = EXPERIMENTS["pedestrian_plain"]
    augmented = plain.with_settings({"augment": "true"})
    same, other = (next(iter(experiment.batches(street_data, 0)))[0] for experiment in (plain, augmented))
    assert same.shape == other.shape == (5, 96, 96, 3)
    assert tf.reduce_mean(tf.abs(tf.cast(same, tf.float32) - tf.cast(other, tf.float32))) > 5


def test_a_run_cut_at_the_border_of_the_stages_ends_with_the_same_weights(
    tmp_path: Path, street_data: PedestrianData
) -> None:
    experiment = EXPERIMENTS["pedestrian_sparse_softabs"].with_settings(TINY["pedestrian_sparse_softabs"])
    whole, cut = (Run(experiment, street_data, tmp_path / name) for name in ("whole", "cut"))
    whole.train()
    cut.train(stop_after=1)
    cut.train()
    for one, other in zip(whole.model().get_weights(), cut.model().get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def stuck(model: Any) -> None:
    """The decoder gives the same whatever it is given."""
    for part in (model.encoder, model.decoder):
        part.set_weights([0 * weight for weight in part.get_weights()])


@pytest.mark.parametrize(("name", "kept"), [("pedestrian_plain", ()), ("pedestrian_sparse_elu", ("encoder",))])
def test_a_net_that_is_stuck_is_drawn_again_and_one_that_learns_is_not(
    street_data: PedestrianData, name: str, kept: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    experiment = EXPERIMENTS[name].with_settings({"redraw_after": "1"})
    parts = [part for part in ("encoder", "decoder") if part not in kept]
    model = experiment.build()
    optimizer = experiment.optimizer()
    optimizer.build(model.trainable_variables)
    for epoch, drawn in ((0, False), (1, True), (2, True), (4, False)):
        stuck(model)
        before = model.get_weights()
        experiment.redraw_if_stuck(model, parts, optimizer, street_data, epoch)
        assert (not all(map(np.array_equal, before, model.get_weights()))) == drawn
        assert all(not np.any(weight) for part in kept for weight in getattr(model, part).get_weights())
    assert "weights are drawn anew" in caplog.text
    # always the same weights for the same seed and epoch, and others at another try
    again = []
    for epoch in (1, 1, 2):
        stuck(model)
        experiment.redraw_if_stuck(model, parts, optimizer, street_data, epoch)
        again.append(np.concatenate([weight.ravel() for weight in model.decoder.get_weights()]))
    np.testing.assert_array_equal(again[0], again[1])
    assert not np.array_equal(again[0], again[2])


def test_a_net_whose_masks_are_all_empty_is_not_stuck(street_data: PedestrianData) -> None:
    empty = tuple(dataclasses.replace(scene, instances=np.zeros_like(scene.instances)) for scene in street_data.train)
    experiment = EXPERIMENTS["pedestrian_plain"].with_settings({"redraw_after": "1"})
    model, optimizer = experiment.build(), experiment.optimizer()
    before = model.get_weights()
    data = dataclasses.replace(street_data, train=empty)
    experiment.redraw_if_stuck(model, ("encoder", "decoder"), optimizer, data, 1)
    assert all(map(np.array_equal, before, model.get_weights()))


def test_a_net_that_is_better_than_the_bound_keeps_its_weights(
    street_data: PedestrianData, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = EXPERIMENTS["pedestrian_plain"].with_settings({"redraw_after": "1"})
    model, optimizer = experiment.build(), experiment.optimizer()
    optimizer.build(model.trainable_variables)
    before = model.get_weights()
    # a fresh net is worse than a constant mask, though not a hundred times
    monkeypatch.setattr(base, "STUCK", 100.0)
    experiment.redraw_if_stuck(model, ("encoder", "decoder"), optimizer, street_data, 1)
    assert all(map(np.array_equal, before, model.get_weights()))
    monkeypatch.setattr(base, "STUCK", 0.97)
    experiment.redraw_if_stuck(model, ("encoder", "decoder"), optimizer, street_data, 1)
    assert not all(map(np.array_equal, before, model.get_weights()))
