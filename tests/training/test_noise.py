from __future__ import annotations

import numpy as np
import pytest

from training.noise import EVALUATION, kept_values, standard_normal, step_seed


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.9])
def test_share_of_kept_values_is_the_probability(keep: float) -> None:
    kept = kept_values((400, 784), keep, EVALUATION).numpy()
    assert set(np.unique(kept)) == {0.0, 1.0}
    assert kept.mean() == pytest.approx(keep, abs=5 * np.sqrt(keep * (1 - keep) / kept.size))


def test_values_are_masked_independently_of_each_other() -> None:
    kept = kept_values((20_000, 6), 0.7, EVALUATION).numpy()
    correlation = np.corrcoef(kept, rowvar=False)
    assert np.abs(correlation - np.eye(6)).max() < 5 / np.sqrt(20_000)


def test_rescaled_values_have_mean_one() -> None:
    kept = kept_values((400, 784), 0.7, EVALUATION, rescale=True).numpy()
    np.testing.assert_allclose(np.unique(kept), [0, 1 / 0.7], rtol=1e-6)
    assert kept.mean() == pytest.approx(1, abs=5 * np.sqrt(0.3 / 0.7 / kept.size))


def test_nothing_and_everything_can_be_kept() -> None:
    assert kept_values((50, 9), 1.0, EVALUATION).numpy().min() == 1.0
    assert kept_values((50, 9), 0.0, EVALUATION).numpy().max() == 0.0


def test_normal_noise_is_standard_normal() -> None:
    draws = standard_normal((40_000, 2), EVALUATION).numpy()
    assert np.abs(draws.mean(axis=0)).max() < 5 / np.sqrt(40_000)
    assert np.abs(draws.var(axis=0) - 1).max() < 5 * np.sqrt(2 / 40_000)


def test_noise_is_a_function_of_seed_epoch_and_step_and_of_each_of_them() -> None:
    def draw(*where: int) -> bytes:
        return standard_normal((3, 4), step_seed(*where)).numpy().tobytes()

    assert draw(1, 2, 3) == draw(1, 2, 3)
    assert len({draw(seed, epoch, step) for seed in range(3) for epoch in range(3) for step in range(3)}) == 27
