"""Runs of one shape with everything at fixed addresses: inputs and outputs are bound to buffers on the device once.

A run then copies its input into its buffer, computes, and copies the outputs back: nothing is allocated. With CUDA
graphs the first run is captured and later ones replay it, for which fixed shapes and addresses are the condition.

One thread at a time, as for the session: the buffers are shared by all runs.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from serving.backend.providers import GRAPH_ID, NO_GRAPH

Array = npt.NDArray[Any]

_DTYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}


class BoundRun:
    """A session's run for inputs of one shape.

    It computes all outputs, as ONNX Runtime does whatever is asked for; only those wanted are copied back.

    Args:
        session: the session.
        inputs: the first ones; all later ones have their dtypes and shapes.
        device: ``cuda``, or ``cpu`` where there is no GPU and the same path is to be tested.
        device_id: which of the GPUs.
        graph_id: of the CUDA graph, positive and one of its kind in the session; None = no graph.
        severity: least severity that ONNX Runtime logs.
    """

    def __init__(
        self,
        session: Any,
        inputs: Mapping[str, Array],
        *,
        device: str,
        device_id: int,
        graph_id: int | None,
        severity: int,
    ) -> None:
        self._session = session
        self._on_host = device == "cpu"
        self._binding = session.io_binding()
        self._inputs = {
            name: ort.OrtValue.ortvalue_from_shape_and_type(list(array.shape), array.dtype, device, device_id)
            for name, array in inputs.items()
        }
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        # Once without a graph, and with outputs that the library allocates: to learn their shapes.
        names = [node.name for node in session.get_outputs()]
        for name in names:
            self._binding.bind_output(name, device, device_id)
        self._fill(inputs)
        session.run_with_iobinding(self._binding, _options(severity, None))
        self._outputs = {}
        for name, value in zip(names, self._binding.get_outputs(), strict=True):
            dtype = _DTYPES[value.data_type()]
            buffer = ort.OrtValue.ortvalue_from_shape_and_type(value.shape(), dtype, device, device_id)
            self._binding.bind_ortvalue_output(name, buffer)
            self._outputs[name] = buffer
        self._options = _options(severity, graph_id)

    def run(self, inputs: Mapping[str, Array], outputs: tuple[str, ...]) -> list[Array]:
        """Runs; the outputs of these names, in this order, are the caller's own arrays."""
        self._fill(inputs)
        self._session.run_with_iobinding(self._binding, self._options)
        # From a GPU this copies; on the host it would be the buffer itself, which the next run overwrites.
        arrays = [self._outputs[name].numpy() for name in outputs]
        return [array.copy() for array in arrays] if self._on_host else arrays

    def _fill(self, inputs: Mapping[str, Array]) -> None:
        for name, value in self._inputs.items():
            value.update_inplace(inputs[name])


def _options(severity: int, graph_id: int | None) -> Any:
    options = ort.RunOptions()
    options.log_severity_level = severity
    options.add_run_config_entry(GRAPH_ID, NO_GRAPH if graph_id is None else str(graph_id))
    return options
