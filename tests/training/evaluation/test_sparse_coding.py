from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import r2_score

from training.evaluation.probes import pca_codes, probe_error, random_dictionary_codes
from training.evaluation.sparse_coding import (
    class_purity,
    firing_frequency,
    score_firing,
    score_reconstruction,
    score_sparsity,
)


def test_explained_variance_is_the_pooled_one(rng: np.random.Generator) -> None:
    x = rng.standard_normal((50, 6)).astype(np.float32)
    rebuilt = x + 0.3 * rng.standard_normal(x.shape).astype(np.float32)
    scores = score_reconstruction(x, rebuilt)
    variances = x.var(axis=0)
    independent = np.average(r2_score(x, rebuilt, multioutput="raw_values"), weights=variances)
    assert scores.explained_variance == pytest.approx(independent, rel=1e-5)
    assert scores.mse == pytest.approx(np.mean((x - rebuilt) ** 2), rel=1e-5)
    assert scores.squared_error == pytest.approx(6 * scores.mse)


def test_the_mean_explains_nothing_and_the_input_everything(rng: np.random.Generator) -> None:
    x = rng.standard_normal((20, 3)).astype(np.float32)
    assert score_reconstruction(x, np.tile(x.mean(axis=0), (20, 1))).explained_variance == pytest.approx(0, abs=1e-6)
    assert score_reconstruction(x, x).explained_variance == 1


def test_sparsity_of_known_latents() -> None:
    latents = np.array([[1, 0, 0, 0], [2, 2, 2, 2], [0, 0, 0, 0]], np.float32)
    scores = score_sparsity(latents, np.array([True, True, True, False]))
    assert scores.l0 == pytest.approx(5 / 3)
    assert scores.dead_share == pytest.approx(1 / 4)
    assert scores.hoyer == pytest.approx((1 + 0 + 1) / 3)


def test_probe_separates_what_is_separable_and_guesses_where_nothing_is(rng: np.random.Generator) -> None:
    labels = rng.integers(0, 3, 600)
    centres = rng.standard_normal((3, 8)).astype(np.float32) * 4
    features = centres[labels] + rng.standard_normal((600, 8)).astype(np.float32)
    assert probe_error(features[:400], labels[:400], features[400:], labels[400:]) < 0.02
    noise = rng.standard_normal((600, 8)).astype(np.float32)
    assert probe_error(noise[:400], labels[:400], noise[400:], labels[400:]) > 0.5


def test_sparse_and_dense_features_give_the_same_probe(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = rng.integers(0, 3, 300)
    features = np.where(rng.random((300, 40)) < 0.1, rng.random((300, 40)) + labels[:, None], 0).astype(np.float32)
    halves = features[:200], labels[:200], features[200:], labels[200:]
    sparse = probe_error(*halves)
    monkeypatch.setattr("training.evaluation.probes.SPARSE_BELOW", 0.0)
    assert probe_error(*halves) == pytest.approx(sparse, abs=0.011)


def test_pca_control_reconstructs_what_lies_in_its_plane(rng: np.random.Generator) -> None:
    plane = rng.standard_normal((2, 10)).astype(np.float32)
    train, test = (rng.standard_normal((count, 2)).astype(np.float32) @ plane for count in (60, 20))
    codes, test_codes, rebuilt = pca_codes(train, test, 2)
    assert codes.shape == (60, 2)
    assert test_codes.shape == (20, 2)
    np.testing.assert_allclose(rebuilt, test, atol=1e-4)


def test_random_dictionary_keeps_k(rng: np.random.Generator) -> None:
    codes = random_dictionary_codes(rng.random((9, 20)).astype(np.float32), latents=50, k=7, seed=1)
    np.testing.assert_array_equal(np.count_nonzero(codes, axis=1), np.full(9, 7))


def test_cosine_and_length_ratio_of_known_reconstructions() -> None:
    x = np.array([[3, 4], [1, 0]], np.float32)
    scores = score_reconstruction(x, np.array([[6, 8], [0, 1]], np.float32))
    assert scores.cosine == pytest.approx((1 + 0) / 2)
    assert scores.l2_ratio == pytest.approx((2 + 1) / 2)


def test_firing_frequency_counts_examples_and_not_values() -> None:
    latents = np.array([[0, 5, -1], [0, 0, 2], [0, 3, 1], [0, 0, 7]], np.float32)
    np.testing.assert_array_equal(firing_frequency(latents), [0, 0.5, 1])


def test_rare_latents_are_counted() -> None:
    scores = score_firing(np.array([0, 5e-7, 5e-6, 0.1, 0.2]))
    assert (scores.latents_below_1e_5, scores.latents_below_1e_6, scores.firing_median) == (3, 2, 5e-6)


def test_purity_of_a_latent_that_is_one_class_and_of_one_that_is_half(rng: np.random.Generator) -> None:
    labels = np.repeat(np.arange(4), 25)
    pure = np.where(labels == 2, 1 + rng.random(100), 0)
    half = np.where((labels == 0) | (labels == 1), 1.0, 0)
    rare = np.where(np.arange(100) < 9, 1.0, 0)
    assert class_purity(pure[:, None].astype(np.float32), labels) == 1
    assert class_purity(half[:, None].astype(np.float32), labels) == 0.5
    # a latent on nine examples is left out, however pure
    assert class_purity(np.stack([half, rare], axis=1).astype(np.float32), labels) == 0.5
    assert class_purity(rare[:, None].astype(np.float32), labels) == 0


def test_purity_of_a_two_sided_latent_is_that_of_its_sides() -> None:
    labels = np.repeat(np.arange(4), 25)
    sides = np.select([labels == 1, labels == 2], [1.0, -2.0], 0).astype(np.float32)
    assert class_purity(sides[:, None], labels) == 1
    # a half on its positive side, pure on its negative one; and one that is negative alone
    other = np.select([labels < 2, labels == 3], [1.0, -1.0], 0).astype(np.float32)
    assert class_purity(other[:, None], labels) == 0.75
    assert class_purity(np.minimum(sides, 0)[:, None], labels) == 1


def test_purity_looks_at_the_strongest_examples() -> None:
    labels = np.repeat(np.arange(2), 500)
    latents = (np.arange(1000) / 1000 + 0.1).astype(np.float32)[:, None]
    assert class_purity(latents, labels) == 1
