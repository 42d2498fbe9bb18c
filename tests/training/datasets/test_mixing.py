from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from training.datasets.mixing import mixed


@pytest.fixture
def batches() -> tf.data.Dataset:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (7, 8, 8, 3), np.uint8)
    masks = (rng.random((7, 8, 8, 1)) < 0.5).astype(np.float32)
    return tf.data.Dataset.from_tensor_slices((pictures, masks)).batch(4)


def test_pictures_and_masks_are_mixed_in_the_same_share(batches: tf.data.Dataset) -> None:
    for (picture, mask), (own, truth) in zip(mixed(batches, 1.0, seed=3, epoch=2), batches, strict=True):
        assert (picture.dtype, mask.dtype) == (tf.uint8, tf.float32)
        own, truth = own.numpy().astype(float), truth.numpy()
        for number, (other, other_truth) in enumerate(zip(own[::-1], truth[::-1], strict=True)):
            if np.array_equal(truth[number], other_truth):  # the middle one of an odd number
                np.testing.assert_array_equal(picture[number], own[number])
                continue
            where = truth[number] > other_truth
            share = float(mask[number].numpy()[where][0])
            assert 0 < share < 1
            np.testing.assert_allclose(mask[number], share * truth[number] + (1 - share) * other_truth, atol=1e-6)
            expected = share * own[number] + (1 - share) * other
            np.testing.assert_allclose(picture[number].numpy().astype(float), expected, atol=0.501)


def test_as_many_are_mixed_as_are_to_be(batches: tf.data.Dataset) -> None:
    def share_mixed(probability: float) -> float:
        found = [
            not np.array_equal(one, other)
            for epoch in range(100)
            for (picture, _), (own, _) in zip(mixed(batches, probability, seed=0, epoch=epoch), batches, strict=True)
            for one, other in zip(picture.numpy(), own.numpy(), strict=True)
        ]
        return float(np.mean(found))

    assert share_mixed(0.0) == 0.0
    # six of seven have a partner
    assert share_mixed(0.5) == pytest.approx(0.5 * 6 / 7, abs=0.06)


def test_what_is_drawn_depends_on_seed_and_epoch_alone(batches: tf.data.Dataset) -> None:
    def masks(seed: int, epoch: int) -> list[bytes]:
        return [mask.numpy().tobytes() for _, mask in mixed(batches, 1.0, seed=seed, epoch=epoch)]

    assert masks(1, 2) == masks(1, 2)
    assert len({tuple(masks(*drawn)) for drawn in ((1, 2), (2, 1), (1, 3), (0, 2))}) == 4
    first, second = mixed(batches, 1.0, seed=1, epoch=2)
    assert not np.array_equal(np.unique(first[1]), np.unique(second[1]))
