"""The five segmentation auto-encoders of the source, on Penn-Fudan stretched to 96x96.

One architecture with a bottleneck of nine numbers (:mod:`training.encoders.segmentation_autoencoder`), and no
augmentation: the source asks whether sparsity regularises in its place. The control that answers it is
``python -m training train pedestrian_plain --set augment=true --runs ...``; the one that is matched with the staged
nets in epochs end to end is ``--set epochs=200``, in all epochs ``pedestrian_plain`` itself. ``training/RESULTS.md``
has the scores of all of them.

The preset ``blog`` is the source's program: statistics over the mini-batch of 5, ε = 1e-20, mean of entries, the linear
features handed on, 201 epochs of sparse filtering whose objective stays in the sum with weight 1.75.
"""

from __future__ import annotations

from training.experiments.pedestrian_autoencoders.base import PedestrianAutoencoder
from training.experiments.pedestrian_autoencoders.sparse_filtering import PedestrianSparseFiltering
from training.sparsity.sparse_filtering import PROGRAM_EPSILON

_BLOG = {"epochs": 801, "epsilon": PROGRAM_EPSILON, "weight_average": 0.0, "redraw_after": 0}
_BLOG_STAGED = {
    **_BLOG,
    "forward": "linear",
    "filter_epochs": 201,
    "filter_codes": 5,
    "reduction": "entries",
    "stage2_sf_weight": 1.75,
}
_QUICK = {"epochs": 80}
_QUICK_STAGED = {"epochs": 70, "filter_epochs": 10}

PEDESTRIAN_AUTOENCODERS = (
    PedestrianAutoencoder(
        name="pedestrian_plain",
        summary="segmentation auto-encoder 96x96 through nine numbers",
        presets={"quick": _QUICK, "blog": _BLOG},
    ),
    PedestrianAutoencoder(
        name="pedestrian_l1",
        summary="the same with an L1 penalty on the convolutions' weights",
        penalty="l1",
        presets={"quick": _QUICK, "blog": _BLOG},
    ),
    PedestrianAutoencoder(
        name="pedestrian_l2",
        summary="the same with an L2 penalty on the convolutions' weights",
        penalty="l2",
        presets={"quick": _QUICK, "blog": _BLOG},
    ),
    PedestrianSparseFiltering(
        name="pedestrian_sparse_softabs",
        summary="the same, its encoder first trained by sparse filtering with the soft absolute",
        activation="soft_absolute",
        presets={"quick": _QUICK_STAGED, "blog": _BLOG_STAGED},
    ),
    PedestrianSparseFiltering(
        name="pedestrian_sparse_elu",
        summary="the same, its encoder first trained by sparse filtering with ELU",
        activation="elu_abs",
        presets={"quick": _QUICK_STAGED, "blog": {**_BLOG_STAGED, "activation": "elu_signed"}},
    ),
)
