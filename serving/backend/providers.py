"""Execution providers, and the options they get, under the names that ONNX Runtime gives them.

Where the names come from: onnxruntime.ai/docs/execution-providers, the pages on CUDA and TensorRT, and
``onnxruntime_run_options_config_keys.h`` for ``gpu_graph_id``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

ProviderChoice = Literal["auto", "cuda", "tensorrt", "cpu"]
Precision = Literal["fp32", "tf32", "fp16"]
# Name and options; ONNX Runtime takes all of them as text.
Provider = tuple[str, dict[str, str]]
Shape = tuple[int, ...]

# The key of a run's options that names the graph to capture or replay; 0 is the library's own, -1 means none.
GRAPH_ID, NO_GRAPH = "gpu_graph_id", "-1"


@dataclass(frozen=True, slots=True)
class Acceleration:
    """How a GPU is used.

    Attributes:
        device_id: which one, as CUDA counts those that it shows this process.
        precision: ``fp32`` gives the digits that the export was checked for. ``tf32`` lets CUDA round the factors of
            products to 10 bits. ``fp16`` is TensorRT's, which makes halves of the one file that the manifest vouches
            for; CUDA would need a second file.
        graphs: whether runs of the fixed shapes are captured as CUDA graphs and replayed.
        memory_limit: bytes of the arena of each session; 0 = no limit. cuDNN's and CUDA's own come on top.
        engine_cache: folder where TensorRT keeps the engines it has built; None = they are built at each start.
    """

    device_id: int = 0
    precision: Precision = "fp32"
    graphs: bool = False
    memory_limit: int = 0
    engine_cache: Path | None = None


PLAIN = Acceleration()


def provider_list(
    provider: str, acceleration: Acceleration, inputs: Mapping[str, tuple[Shape, Shape]] | None = None
) -> list[Provider]:
    """The providers of a session, the wanted one first; those after it take what it cannot.

    Args:
        provider: CPU, CUDA or TENSORRT.
        acceleration: of a GPU.
        inputs: name -> least and greatest shape, for which TensorRT builds its engine; outside of them it would build
            another while callers wait.
    """
    if provider == CPU:
        return [(CPU, {})]
    cuda = (CUDA, _cuda_options(acceleration, graphs=provider == CUDA and acceleration.graphs))
    if provider == CUDA:
        return [cuda, (CPU, {})]
    return [(TENSORRT, _tensorrt_options(acceleration, inputs or {})), cuda, (CPU, {})]


def _cuda_options(acceleration: Acceleration, *, graphs: bool) -> dict[str, str]:
    options = {
        "device_id": str(acceleration.device_id),
        # The default looks for the best algorithm anew whenever the shape changes.
        "cudnn_conv_algo_search": "HEURISTIC",
        # Doubling the arena wastes memory once shapes are few.
        "arena_extend_strategy": "kSameAsRequested",
        # On by default, and then answers differ from the CPU's in the third digit.
        "use_tf32": "1" if acceleration.precision == "tf32" else "0",
    }
    if acceleration.memory_limit:
        options["gpu_mem_limit"] = str(acceleration.memory_limit)
    if graphs:
        options["enable_cuda_graph"] = "1"
    return options


def _tensorrt_options(acceleration: Acceleration, inputs: Mapping[str, tuple[Shape, Shape]]) -> dict[str, str]:
    options = {
        "device_id": str(acceleration.device_id),
        "trt_fp16_enable": "1" if acceleration.precision == "fp16" else "0",
    }
    if acceleration.engine_cache is not None:
        options |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(acceleration.engine_cache),
            "trt_timing_cache_enable": "1",
        }
    if inputs:
        options |= {
            "trt_profile_min_shapes": _profile({name: least for name, (least, _) in inputs.items()}),
            "trt_profile_opt_shapes": _profile({name: most for name, (_, most) in inputs.items()}),
            "trt_profile_max_shapes": _profile({name: most for name, (_, most) in inputs.items()}),
        }
    return options


def _profile(shapes: Mapping[str, Sequence[int]]) -> str:
    """As TensorRT's options write shapes: ``image:1x224x224x3,other:1x4``."""
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
