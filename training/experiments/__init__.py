"""The experiments by name: one for each encoder, each also the name of the model that is served."""

from __future__ import annotations

from typing import Any

from training.experiments.autoencoder_family import AUTOENCODER_FAMILY
from training.experiments.base import Experiment, ExperimentError
from training.experiments.denoising import DENOISING
from training.experiments.pedestrian_autoencoders import PEDESTRIAN_AUTOENCODERS
from training.experiments.pedestrian_mobilenet import PEDESTRIAN_MOBILENET
from training.experiments.pedestrian_unet import PEDESTRIAN
from training.experiments.sparse_autoencoders import SPARSE_AUTOENCODERS
from training.experiments.sparse_coding import SPARSE_CODING
from training.experiments.sparse_filtering import SPARSE_FILTERING
from training.experiments.stacked import STACKED

EXPERIMENTS: dict[str, Experiment[Any]] = {
    experiment.name: experiment
    for experiment in (
        *PEDESTRIAN,
        *PEDESTRIAN_AUTOENCODERS,
        *SPARSE_CODING,
        *DENOISING,
        *AUTOENCODER_FAMILY,
        *STACKED,
        *SPARSE_FILTERING,
        *SPARSE_AUTOENCODERS,
    )
}

OPTIONAL: dict[str, Experiment[Any]] = {experiment.name: experiment for experiment in PEDESTRIAN_MOBILENET}
"""Those that start from what others have trained. They are trained when asked for by name, and with all the others
where nothing has to be downloaded for it: nobody gets weights from elsewhere unasked."""


def experiment_named(name: str) -> Experiment[Any]:
    """The experiment of that name.

    Raises:
        ExperimentError: there is none; the message lists those there are.
    """
    known = {**EXPERIMENTS, **OPTIONAL}
    try:
        return known[name]
    except KeyError:
        raise ExperimentError(f"expected one of the experiments {', '.join(known)}. Received: {name!r}") from None
