"""The five ways of sparse coding of MNIST digits: plain, weight decay, KL, neural, k-sparse.

``python -m training train mnist_k_sparse --preset full`` trains the k-sparse auto-encoder; ``--set gradients=manual``
trains by formulas written out by hand in place of automatic differentiation. ``--preset blog`` is the source's program
with its quirks, each an option of its own. See ``training/RESULTS.md`` for what they score, how long they take and on
which machine. The source says that all five share their hyper-parameters; its programs differ in rate, decay and start,
and so do the presets.
"""

from __future__ import annotations

from training.experiments.sparse_coding.k_sparse import KSparse
from training.experiments.sparse_coding.neural import Neural
from training.experiments.sparse_coding.sigmoid import SigmoidCoding

_QUICK = {"epochs": 10, "train_examples": 20_000, "probe_examples": 10_000}
_BLOG = {
    "latents": 100,
    "train_examples": 10_000,
    "epochs": 500,
    "batch_size": 100,
    "biases": False,
    "bias_correction": "constant",
}
_BLOG_AB = {**_BLOG, "learning_rate": 8e-5, "initial": "normal"}

SPARSE_CODING = (
    SigmoidCoding(
        name="mnist_plain",
        summary="sigmoid auto-encoder without any penalty",
        epochs=30,
        batch_size=100,
        learning_rate=1e-3,
        presets={"quick": _QUICK, "blog": _BLOG_AB},
    ),
    SigmoidCoding(
        name="mnist_l2",
        summary="sigmoid auto-encoder with weight decay",
        epochs=30,
        batch_size=100,
        learning_rate=1e-3,
        weight_decay=3e-3,
        presets={"quick": _QUICK, "blog": {**_BLOG_AB, "weight_decay": 3e-5, "decay": "decoupled"}},
    ),
    SigmoidCoding(
        name="mnist_kl",
        summary="sigmoid auto-encoder with a KL penalty on mean activations (Ng)",
        epochs=30,
        batch_size=100,
        learning_rate=1e-3,
        weight_decay=3e-3,
        sparsity_weight=3.0,
        presets={"quick": _QUICK, "blog": _BLOG},
    ),
    Neural(
        name="mnist_neural",
        summary="dictionary learned by a Hebbian-like rule (Arora, Ge, Ma, Moitra)",
        epochs=20,
        batch_size=500,
        learning_rate=0.02,
        presets={
            "quick": _QUICK,
            "blog": {
                "latents": 100,
                "train_examples": 10_000,
                "epochs": 500,
                "batch_size": 100,
                "learning_rate": 1e-3,
                "rule": "program",
                "weight_growth": 3e-3,
            },
        },
    ),
    KSparse(
        name="mnist_k_sparse",
        summary="k-sparse auto-encoder, tied and linear (Makhzani and Frey)",
        # chosen on held-out training digits: longer trainings reconstruct better and classify worse
        epochs=10,
        batch_size=100,
        learning_rate=1e-3,
        presets={
            "quick": {"epochs": 5, "probe_examples": 20_000},
            "blog": {
                **_BLOG,
                "k_start": 25,
                "init_scale": 0.0,
                "selection": "batch",
                "gradient_half": "decoder",
                "weight_decay": 3e-3,
            },
        },
    ),
)
