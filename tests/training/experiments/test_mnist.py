from __future__ import annotations

import dataclasses
import math

import pytest

from training.datasets.digits import DigitData
from training.experiments.mnist import controls


@pytest.fixture
def few_digits(digit_data: DigitData) -> DigitData:
    return dataclasses.replace(
        digit_data, train_images=digit_data.train_images[:6], train_labels=digit_data.train_labels[:6]
    )


def test_no_control_has_more_principal_components_than_there_are_training_digits(few_digits: DigitData) -> None:
    found = controls(few_digits, latents=50, l0=20, pca=100, probe_examples=0)
    assert [name for name in found if name.startswith("control_pca_")] == [
        "control_pca_6_probe_error",
        "control_pca_same_l0_explained_variance",
    ]
    as_many = controls(few_digits, latents=50, l0=6, pca=6, probe_examples=0)
    assert found["control_pca_6_probe_error"] == as_many["control_pca_6_probe_error"]
    name = "control_pca_same_l0_explained_variance"
    assert found[name] == as_many[name]


def test_nothing_is_probed_where_the_probe_would_see_one_class_only(few_digits: DigitData) -> None:
    found = controls(few_digits, latents=50, l0=5, pca=6, probe_examples=1)
    assert {name for name, value in found.items() if math.isnan(value)} == {
        "control_raw_probe_error",
        "control_pca_6_probe_error",
        "control_random_dictionary_probe_error",
    }
