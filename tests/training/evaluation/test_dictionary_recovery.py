from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import SparseCoder

from training.evaluation.dictionary_recovery import match_columns, near_start, random_model, score_recovery


def test_samples_are_k_sparse_signs_times_the_dictionary(rng: np.random.Generator) -> None:
    model = random_model(12, 20, 3, rng)
    inputs, codes = model.sample(500, rng)
    np.testing.assert_allclose(np.linalg.norm(model.dictionary, axis=0), 1)
    np.testing.assert_array_equal(np.count_nonzero(codes, axis=1), np.full(500, 3))
    assert set(np.unique(codes)) == {-1.0, 0.0, 1.0}
    np.testing.assert_allclose(inputs, codes @ model.dictionary.T)
    assert np.all(np.abs((codes != 0).mean(axis=0) - 3 / 20) < 0.06)


def test_orthonormal_columns_are_at_right_angles(rng: np.random.Generator) -> None:
    dictionary = random_model(12, 9, 3, rng, orthonormal=True).dictionary
    np.testing.assert_allclose(dictionary.T @ dictionary, np.eye(9), atol=1e-12)


def test_near_start_is_as_near_as_asked(rng: np.random.Generator) -> None:
    truth = random_model(400, 20, 3, rng).dictionary
    cosines = np.sum(truth * near_start(truth, 0.5, rng), axis=0)
    np.testing.assert_allclose(cosines, 1 / np.sqrt(1.25), atol=0.08)


def test_order_sign_length_and_spare_columns_do_not_matter(rng: np.random.Generator) -> None:
    model = random_model(12, 8, 2, rng, orthonormal=True)
    order = rng.permutation(8)
    signs, lengths = rng.choice([-1.0, 1.0], 8), rng.uniform(0.5, 3, 8)
    learned = np.column_stack([model.dictionary[:, order] * signs * lengths, np.zeros(12)])
    matching = match_columns(learned, model.dictionary)
    np.testing.assert_array_equal(order[matching.columns], np.arange(8))
    np.testing.assert_array_equal(matching.signs, signs[matching.columns])

    def encode(inputs: np.ndarray) -> np.ndarray:
        latents = inputs @ (learned / np.append(lengths, 1.0))
        return np.where(np.abs(latents) > 0.5, latents, 0)

    recovery = score_recovery(learned, encode, model)
    assert recovery.max_error < 1e-6
    assert recovery.mcc == pytest.approx(1)
    assert (recovery.support_precision, recovery.support_recall) == (1, 1)


def test_known_errors(rng: np.random.Generator) -> None:
    model = random_model(6, 3, 1, rng, orthonormal=True)
    learned = model.dictionary.copy()
    other = rng.standard_normal(6)
    other -= model.dictionary @ (model.dictionary.T @ other)
    learned[:, 2] = np.cos(0.2) * learned[:, 2] + np.sin(0.2) * other / np.linalg.norm(other)
    recovery = score_recovery(learned, lambda y: np.where(np.abs(y @ learned) > 0.5, 1.0, 0.0) * [1, 1, 0], model)
    chord = 2 * np.sin(0.1)
    assert recovery.max_error == pytest.approx(chord)
    assert recovery.mean_error == pytest.approx(chord / 3)
    assert recovery.mean_cosine == pytest.approx((2 + np.cos(0.2)) / 3)
    # the third latent is never active; the others are never wrong, but know no sign
    assert recovery.support_precision == 1
    assert recovery.support_recall == pytest.approx(2 / 3, abs=0.05)
    assert recovery.mcc < 0.2


def test_hungarian_pairing_is_not_greedy() -> None:
    truth = np.eye(2)
    learned = np.array([[0.9, 1.0], [0.8, 0.0]])
    matching = match_columns(learned, truth)
    np.testing.assert_array_equal(matching.columns, [1, 0])


def test_omp_of_scikit_learn_finds_the_supports_of_the_true_dictionary(rng: np.random.Generator) -> None:
    model = random_model(40, 50, 2, rng)
    coder = SparseCoder(model.dictionary.T, transform_algorithm="omp", transform_n_nonzero_coefs=2)
    recovery = score_recovery(model.dictionary, coder.transform, model, examples=300)
    assert recovery.max_error < 1e-6
    assert recovery.support_recall > 0.97
    assert recovery.mcc > 0.97


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((8, 8, 9), r"k must lie in 1\.\.8 .*Received: 9"), ((8, 9, 2), r"at most 8 orthonormal columns\. Received: 9")],
)
def test_impossible_models_are_refused(rng: np.random.Generator, arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random_model(*arguments, rng, orthonormal=True)


def test_too_few_columns_are_refused() -> None:
    with pytest.raises(ValueError, match=r"true ones \(8\)\. Received: 7"):
        match_columns(np.eye(8)[:, :7], np.eye(8))
