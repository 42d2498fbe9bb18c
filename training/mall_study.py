"""What trained segmentation models make of the Mall video: overlays, a film, red area over time, scores.

::

    <output>/scores.json             each model's scores
    <output>/red_share.png           red area over time, above the number of heads
    <output>/<model>/frame_*.png     frames with the probability as a hot map over them
    <output>/<model>/mall.gif        every fourth frame at half size
    <output>/<model>/mall.mp4        all frames
    <output>/<model>/frames.json     the scores of each frame
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from training.datasets.mall import FRAMES_A_SECOND, MallData
from training.datasets.resizing import Geometry, resize, restore
from training.evaluation import figures
from training.evaluation.film import write_gif, write_video
from training.evaluation.mall import FrameScores, MallScores, score_frames, summarise
from training.evaluation.mall_figures import heat_overlay, red_share_over_time
from training.experiments.pedestrian import PedestrianExperiment
from training.files import write_json, written_whole
from training.run_folder import RunError
from training.runs import Run

logger = logging.getLogger(__name__)

SCORES = "scores.json"
CHUNK = 25
"""Frames segmented at once."""
FASTER = 4
"""The films run so many times as fast as the webcam."""
GIF_STEP = 4
STILLS = 6

Frame = NDArray[np.uint8]
Floats = NDArray[np.float32]


def study(runs: Sequence[Run], data: MallData, folder: Path) -> dict[str, MallScores]:
    """Segments the video with each model and writes what came of it.

    Args:
        runs: complete, of pedestrian experiments; at least one.
        data: the video.
        folder: gets the files named above.

    Returns:
        Scores by name of the experiment.

    Raises:
        RunError: a run is of another family.
        DataError: a frame cannot be read.
    """
    frame_scores = {run.experiment.name: _study_one(run, data, folder / run.experiment.name) for run in runs}
    scores = {name: summarise(frames, data.counts) for name, frames in frame_scores.items()}
    shares = {name: np.array([frame.red_share for frame in frames]) for name, frames in frame_scores.items()}
    expected = np.array([frame.expected_share for frame in next(iter(frame_scores.values()))])
    plot = red_share_over_time(np.array(data.numbers), shares, expected, data.counts)
    figures.save({"red_share.png": plot}, folder)
    described = {
        "frames": len(data.numbers),
        "heads_per_frame": float(data.counts.mean()),
        "models": {name: asdict(values) for name, values in scores.items()},
    }
    write_json(folder / SCORES, described)
    return scores


def _study_one(run: Run, data: MallData, folder: Path) -> list[FrameScores]:
    experiment = _segmenter(run)
    maps, geometry = _segment(run, data)

    def probabilities() -> Iterator[Floats]:
        return (restore(each, geometry) for each in maps)

    def overlays() -> Iterator[Frame]:
        return (heat_overlay(frame, each) for frame, each in zip(data.frames(), probabilities(), strict=True))

    scores = score_frames(probabilities(), data.heads, data.perspective, experiment.threshold)
    kept: list[Frame] = []
    stills = set(np.linspace(0, len(maps) - 1, min(STILLS, len(maps))).round().astype(int).tolist())

    def film() -> Iterator[Frame]:
        for index, overlay in enumerate(overlays()):
            if index % GIF_STEP == 0:
                height, width = overlay.shape[:2]
                half: Frame = cv2.resize(overlay, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
                kept.append(half)
            if index in stills:
                _write_png(folder / f"frame_{data.numbers[index]:06d}.png", overlay)
            yield overlay

    write_video(film(), folder / "mall.mp4", FASTER * FRAMES_A_SECOND)
    write_gif(kept, folder / "mall.gif", FASTER * FRAMES_A_SECOND)
    write_json(
        folder / "frames.json",
        [{"frame": number, **asdict(each)} for number, each in zip(data.numbers, scores, strict=True)],
    )
    logger.info("%s: %d frames segmented, %s", experiment.name, len(maps), folder)
    return scores


def _segment(run: Run, data: MallData) -> tuple[Floats, Geometry]:
    """The model's maps float32 [F, h, w] at the size at which it is asked, and how a frame was brought to it."""
    experiment = _segmenter(run)
    rule = experiment.resizing()
    function = experiment.servable(run.model()).function()
    inputs, maps = [], []
    for frame in data.frames():
        resized, geometry = resize(frame, rule.rule, rule.height, rule.width, rule.pad_value)
        inputs.append(resized)
    for start in range(0, len(inputs), CHUNK):
        outputs = function(tf.constant(np.stack(inputs[start : start + CHUNK])))
        maps.append(outputs["mask"].numpy()[..., 0])
    return np.concatenate(maps), geometry


def _segmenter(run: Run) -> PedestrianExperiment:
    if not isinstance(run.experiment, PedestrianExperiment):
        raise RunError(f"the Mall study takes segmentation models. Received: {run.experiment.name}")
    return run.experiment


def _write_png(path: Path, picture: Frame) -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    with written_whole(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
