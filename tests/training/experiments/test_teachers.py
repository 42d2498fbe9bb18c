from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from training.datasets.pedestrians import PedestrianData, held_out
from training.datasets.source import DataError
from training.experiments import EXPERIMENTS
from training.experiments.base import ExperimentError
from training.files import write_json
from training.losses.segmentation import binary_crossentropy, soft_dice
from training.run_folder import CONFIG, FINGERPRINT, read_config
from training.runs import Run, open_run

SMALL = {"stem": "4", "widths": "8,8,8,8", "bottleneck": "8", "train_height": "32", "train_width": "32"}
SMALL |= {"auxiliary_weight": "0", "precision": "float32", "epochs": "1", "paste": "0.5"}


@pytest.fixture(scope="module")
def teachers(street_data: PedestrianData, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two finished runs, the second of a net of its own widths."""
    folders = []
    for seed, widths in ((1, "8,8,8,8"), (2, "4,8,8,8")):
        runs = tmp_path_factory.mktemp(f"seed-{seed}")
        experiment = EXPERIMENTS["pedestrian_unet"].with_settings({**SMALL, "seed": str(seed), "widths": widths})
        Run(experiment, street_data, runs / experiment.name).train()
        folders.append(runs)
    return folders


def test_a_student_learns_the_labels_and_the_mean_answer_of_its_teachers(
    street_data: PedestrianData, teachers: list[Path]
) -> None:
    settings = {**SMALL, "teachers": ",".join(map(str, teachers)), "distillation": "0.6"}
    experiment = EXPERIMENTS["pedestrian_unet"].with_settings(settings)
    model = experiment.build()
    program = experiment.program(model, street_data)
    picture, mask = next(iter(program.batches(0)))
    answers = [tf.sigmoid(open_run(experiment.name, runs).model()(picture, training=False)) for runs in teachers]
    assert np.abs(answers[0] - answers[1]).max() > 0.01
    target = 0.4 * mask + 0.6 * (answers[0] + answers[1]) / 2
    twin = experiment.build()
    logits = twin(picture, training=True)
    expected = float(binary_crossentropy(target, logits) + soft_dice(target, logits))
    assert float(program.step((picture, mask))["loss"]) == pytest.approx(expected, rel=1e-5)


def test_teachers_stay_as_they_are(street_data: PedestrianData, teachers: list[Path]) -> None:
    settings = {**SMALL, "teachers": str(teachers[0]), "distillation": "1"}
    experiment = EXPERIMENTS["pedestrian_unet"].with_settings(settings)
    target = experiment.taught(street_data)
    program = experiment.program(experiment.build(), street_data)
    batch = next(iter(program.batches(0)))
    before = target(*batch).numpy()
    for _ in range(3):
        program.step(batch)
    np.testing.assert_array_equal(target(*batch).numpy(), before)
    # the labels have no part in it
    np.testing.assert_array_equal(target(batch[0], 1 - batch[1]).numpy(), before)


def test_a_teacher_of_other_pictures_is_refused(street_data: PedestrianData, teachers: list[Path]) -> None:
    """One that has seen the pictures which are held out would tell of them."""
    experiment = EXPERIMENTS["pedestrian_unet"].with_settings({**SMALL, "teachers": str(teachers[0])})
    expected = rf"pedestrian_unet: expected a net trained on {street_data.name}_fold_1 \(embedded data\)\. "
    with pytest.raises(DataError, match=expected + rf"Received: one trained on {street_data.name} \(embedded data\)"):
        experiment.program(experiment.build(), held_out(street_data, 1))


@pytest.mark.parametrize("setting", ["teachers", "start"])
def test_pictures_of_one_s_own_are_known_by_their_files_not_by_their_folder_s_name(
    street_data: PedestrianData, teachers: list[Path], tmp_path: Path, setting: str
) -> None:
    runs = shutil.copytree(teachers[0], tmp_path / "runs")
    config = read_config(runs / "pedestrian_unet")
    write_json(runs / "pedestrian_unet" / CONFIG, {**config, "data": "folder:a/photos", FINGERPRINT: "0123"})
    experiment = EXPERIMENTS["pedestrian_unet"].with_settings({**SMALL, setting: str(runs)})
    moved = replace(street_data, location="folder:elsewhere/photos", fingerprint="0123")
    experiment.program(experiment.build(), moved)
    expected = r"trained on the pictures of folder:b/photos as they are now\. Received: .* others, of folder:a/photos"
    with pytest.raises(DataError, match=expected):
        experiment.program(experiment.build(), replace(street_data, location="folder:b/photos", fingerprint="4567"))


@pytest.mark.parametrize(("setting", "purpose"), [("teachers", "as a teacher"), ("start", "to start from")])
def test_a_training_that_is_not_there_is_told_before_anything_is_written(
    street_data: PedestrianData, tmp_path: Path, setting: str, purpose: str
) -> None:
    experiment = EXPERIMENTS["pedestrian_unet"].with_settings({**SMALL, setting: f"{tmp_path}/none"})
    run = Run(experiment, street_data, tmp_path / "runs" / experiment.name)
    expected = rf"none/pedestrian_unet: expected a finished training of pedestrian_unet, {purpose}\. Received: none"
    with pytest.raises(DataError, match=expected):
        run.train()
    assert not run.folder.exists()


def test_a_student_starts_from_the_weights_it_is_told_to(street_data: PedestrianData, teachers: list[Path]) -> None:
    experiment = EXPERIMENTS["pedestrian_unet"].with_settings({**SMALL, "seed": "5", "start": str(teachers[0])})
    model = experiment.build()
    experiment.program(model, street_data)
    for found, expected in zip(
        model.get_weights(), open_run(experiment.name, teachers[0]).model().get_weights(), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    other = EXPERIMENTS["pedestrian_unet"].with_settings({**SMALL, "start": str(teachers[1])})
    with pytest.raises(DataError, match=r"net with .*\[8, 8, 8, 8\].*, to start from\. Received: .*\[4, 8, 8, 8\]"):
        other.program(other.build(), street_data)


def test_crops_are_mixed_until_it_settles(street_data: PedestrianData) -> None:
    settings = {**SMALL, "mixing": "1", "settling": "0.5", "epochs": "4"}
    experiment = EXPERIMENTS["pedestrian_unet"].with_settings(settings)
    program = experiment.program(experiment.build(), street_data)

    def between(epoch: int) -> bool:
        return any(bool(tf.reduce_any((mask > 0.01) & (mask < 0.99))) for _, mask in program.batches(epoch))

    assert [between(epoch) for epoch in range(4)] == [True, True, False, False]


def test_a_run_without_teachers_opens_again(teachers: list[Path]) -> None:
    assert open_run("pedestrian_unet", teachers[0]).experiment.teachers == ()


@pytest.mark.parametrize("setting", ["distillation", "mixing"])
def test_a_share_beyond_one_is_refused(setting: str) -> None:
    with pytest.raises(ExperimentError, match=rf"{setting} must lie in 0\.\.1\. Received: 1\.5"):
        EXPERIMENTS["pedestrian_unet"].with_settings({setting: "1.5"})
