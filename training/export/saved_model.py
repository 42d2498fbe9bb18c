"""Writing a servable as SavedModel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf

from training.export.servable import Servable


def write_saved_model(servable: Servable, function: Any, folder: Path) -> None:
    """Writes ``saved_model.pb`` and ``variables/`` into ``folder``.

    Args:
        servable: holds the variables that are saved.
        function: of :meth:`Servable.function`; becomes the signature ``serving_default``.
        folder: exists.
    """
    module = tf.Module()
    module.model = servable.model
    module.serve = function
    tf.saved_model.save(module, str(folder), signatures={"serving_default": function})


def load_saved_model(folder: Path) -> Any:
    """The ``serving_default`` signature of a SavedModel, called with ``image=``; keep the result's owner alive."""
    loaded = tf.saved_model.load(str(folder))
    signature = loaded.signatures["serving_default"]
    # the variables belong to the loaded object, which TensorFlow frees with its last reference
    signature.owner = loaded
    return signature
