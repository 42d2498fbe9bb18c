"""Trains one experiment with several seeds and says how much of its dictionary they share.

::

    <folder>/seed-<n>/          a run for each seed
    <folder>/stability.json     what came of it, with preset, settings and data
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from training.evaluation.stability import Match, match_dictionaries
from training.experiments.base import Experiment
from training.files import write_json
from training.run_folder import RunError
from training.runs import Run

STABILITY = "stability.json"


def study(experiment: Experiment[Any], data: Any, seeds: Sequence[int], folder: Path) -> dict[str, float]:
    """Trains with each seed, where that has not been done, and matches every pair of dictionaries.

    Args:
        experiment: its model has a ``dictionary`` [V, D].
        data: the same for all seeds, as is everything but the seed.
        seeds: two or more, all different.
        folder: gets the files named above.

    Returns:
        ``mean_cosine`` and ``shared`` (mean over pairs), the smallest and largest ``mean_cosine`` of a pair, and
        ``control_untrained_*`` for the dictionaries that the trainings start from.

    Raises:
        RunError: fewer than two different seeds, or a model without a dictionary.
    """
    if len(set(seeds)) < 2 or len(set(seeds)) != len(seeds):
        raise RunError(f"stability needs two or more different seeds. Received: {', '.join(map(str, seeds))}")
    if not hasattr(experiment.build(), "dictionary"):
        raise RunError(f"stability compares dictionaries, and {experiment.name} has none")
    trained, untrained = [], []
    for seed in seeds:
        seeded = experiment.with_settings({"seed": str(seed)})
        run = Run(seeded, data, folder / f"seed-{seed}")
        run.train()
        trained.append(_dictionary(run.model()))
        keras.utils.set_random_seed(seed)
        model = seeded.build()
        # some trainings start from examples, and what those share they have not learned
        seeded.program(model, data)
        untrained.append(_dictionary(model))
    matches, control = _pairs(trained), _pairs(untrained)
    cosines = [match.mean_cosine for match in matches]
    scores = {
        **_mean(matches, ""),
        "mean_cosine_smallest": min(cosines),
        "mean_cosine_largest": max(cosines),
        **_mean(control, "control_untrained_"),
    }
    configuration = Run(experiment, data, folder).configuration()
    del configuration["settings"]["seed"]
    write_json(folder / STABILITY, {**configuration, "seeds": list(seeds), "scores": scores})
    return scores


def _dictionary(model: Any) -> NDArray[np.float32]:
    columns: NDArray[np.float32] = model.dictionary.numpy()
    return columns


def _pairs(dictionaries: Sequence[NDArray[np.float32]]) -> list[Match]:
    return [match_dictionaries(one, other) for one, other in itertools.combinations(dictionaries, 2)]


def _mean(matches: Sequence[Match], prefix: str) -> dict[str, float]:
    rows = [asdict(match) for match in matches]
    return {f"{prefix}{key}": float(np.mean([row[key] for row in rows])) for key in rows[0]}
