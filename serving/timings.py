"""How long one request took, by phase: response, log and metrics show these same numbers."""

from typing import NamedTuple


class Timings(NamedTuple):
    """Seconds spent in each phase of one request.

    Attributes:
        decode: bytes to model input, waiting for a decoding slot included.
        queue: waiting for the model.
        inference: the run, joining of the batch included.
        postprocess: model output to answer.
        total: all of it.
    """

    decode: float
    queue: float
    inference: float
    postprocess: float
    total: float
