from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.digit_figures import digit_rows, latent_scatter, manifold


def test_manifold_puts_each_picture_in_its_place(rng: np.random.Generator) -> None:
    pictures = rng.random((3, 4, 784)).astype(np.float32)
    canvas = np.asarray(manifold(pictures, "plane").axes[0].images[0].get_array())
    assert canvas.shape == (84, 112)
    for row in range(3):
        for column in range(4):
            tile = canvas[row * 28 : row * 28 + 28, column * 28 : column * 28 + 28]
            np.testing.assert_array_equal(tile, pictures[row, column].reshape(28, 28))


def test_digit_rows_has_a_line_for_each_name(rng: np.random.Generator) -> None:
    rows = {name: rng.random((5, 784)).astype(np.float32) for name in ("digit", "corrupted", "rebuilt")}
    figure = digit_rows(rows, "rows")
    assert len(figure.axes) == 15
    assert [axes.get_ylabel() for axes in figure.axes[::5]] == ["digit", "corrupted", "rebuilt"]
    np.testing.assert_array_equal(figure.axes[7].images[0].get_array(), rows["corrupted"][2].reshape(28, 28))


@pytest.mark.parametrize("classes", [1, 10, 14])
def test_every_class_has_a_colour_of_its_own(rng: np.random.Generator, classes: int) -> None:
    labels = np.arange(classes).repeat(3)
    points = latent_scatter(rng.random((len(labels), 2)).astype(np.float32), labels, "plane").axes[0].collections[0]
    colours = points.to_rgba(np.arange(classes))
    assert len(np.unique(colours, axis=0)) == classes
