"""What ONNX Runtime is told about a GPU, where there is none to try it on."""

from pathlib import Path

import pytest

from serving.backend import CPU, CUDA, TENSORRT, Acceleration
from serving.backend.providers import provider_list


def test_the_cpu_needs_no_options() -> None:
    assert provider_list(CPU, Acceleration(graphs=True)) == [(CPU, {})]


def test_cuda_is_told_what_a_service_needs() -> None:
    (name, options), rest = provider_list(CUDA, Acceleration())
    assert (name, rest) == (CUDA, (CPU, {}))
    assert options == {
        "device_id": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",
    }


@pytest.mark.parametrize(
    ("acceleration", "option", "value"),
    [
        (Acceleration(device_id=3), "device_id", "3"),
        (Acceleration(precision="tf32"), "use_tf32", "1"),
        (Acceleration(graphs=True), "enable_cuda_graph", "1"),
        (Acceleration(memory_limit=2**31), "gpu_mem_limit", "2147483648"),
    ],
)
def test_cuda_is_told_what_is_asked_for(acceleration: Acceleration, option: str, value: str) -> None:
    (_, options), _ = provider_list(CUDA, acceleration)
    assert options[option] == value


def test_tensorrt_comes_before_cuda_and_the_cpu() -> None:
    acceleration = Acceleration(precision="fp16", engine_cache=Path("/cache"), graphs=True)
    inputs = {"image": ((1, 96, 96, 3), (64, 96, 96, 3)), "other": ((1, 4), (64, 4))}
    (name, options), (second, cuda), third = provider_list(TENSORRT, acceleration, inputs)
    assert (name, second, third) == (TENSORRT, CUDA, (CPU, {}))
    assert options == {
        "device_id": "0",
        "trt_fp16_enable": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "/cache",
        "trt_timing_cache_enable": "1",
        "trt_profile_min_shapes": "image:1x96x96x3,other:1x4",
        "trt_profile_opt_shapes": "image:64x96x96x3,other:64x4",
        "trt_profile_max_shapes": "image:64x96x96x3,other:64x4",
    }
    # What CUDA takes over of a graph that TensorRT runs cannot be captured.
    assert "enable_cuda_graph" not in cuda


def test_every_option_is_text() -> None:
    for provider in (CUDA, TENSORRT):
        for _, options in provider_list(provider, Acceleration(1, "tf32", True, 1, Path("c")), {"i": ((1,), (2,))}):
            assert all(isinstance(value, str) for value in options.values())
