from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.figure import Figure

from training.evaluation import figures, latent_figures


def drawn(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def test_contrast_normalisation_forgets_strength_and_mean(rng: np.random.Generator) -> None:
    columns = rng.standard_normal((784, 5)).astype(np.float32)
    normalised = figures.contrast_normalised(columns)
    np.testing.assert_allclose(np.abs(normalised).max(axis=0), 1, rtol=1e-6)
    np.testing.assert_allclose(figures.contrast_normalised(3 * columns + 2), normalised, atol=1e-5)


def test_a_mosaic_holds_each_column_as_a_picture(rng: np.random.Generator) -> None:
    columns = rng.standard_normal((784, 5)).astype(np.float32)
    canvas = figures.mosaic(columns)
    assert canvas.shape == (3 * 29 + 1, 3 * 29 + 1)
    np.testing.assert_array_equal(canvas[30:58, 1:29], columns[:, 3].reshape(28, 28))
    assert not canvas[59:].any()


@pytest.mark.parametrize("latents", [np.zeros((4, 6), np.float32), np.eye(4, 6, dtype=np.float32)])
def test_latent_histogram_stands_latents_that_never_fire(latents: np.ndarray) -> None:
    picture = latent_figures.latent_histogram(latents, np.mean(latents != 0, axis=0), "x")
    assert drawn(picture).startswith(b"\x89PNG")
    silent = int(np.sum(~latents.any(axis=0)))
    assert f"({silent} of 6 never fire)" in picture.axes[1].get_xlabel()


def test_cost_over_time_has_a_panel_for_every_scalar_even_where_epochs_lack_it() -> None:
    history = [{"epoch": 1, "seconds": 2, "loss": 3.0}, {"epoch": 2, "seconds": 2, "loss": 1.0, "validation_iou": 0.5}]
    picture = latent_figures.cost_over_time(history, "x")
    assert [axes.get_title() for axes in picture.axes] == ["loss", "validation_iou"]
    np.testing.assert_array_equal(picture.axes[1].lines[0].get_xydata(), [[2, 0.5]])
    assert drawn(picture)


def test_film_frames_are_of_one_size_and_few_colours(rng: np.random.Generator) -> None:
    snapshots = [rng.standard_normal((784, 60)).astype(np.float32) for _ in range(3)]
    frames = latent_figures.weight_frames(snapshots)
    assert {frame.shape for frame in frames} == {(7 * 29 + 1, 7 * 29 + 1, 3)}
    assert len(np.unique(np.stack(frames).reshape(-1, 3), axis=0)) <= latent_figures.COLOURS
