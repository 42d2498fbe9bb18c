"""ONNX Runtime: one session for one model version. The only package that knows the library.

Fails closed: a provider that was asked for and is not really in use is an error, never a silent run on the CPU.
"""

from serving.backend.machine import count_gpus, has_tensorrt, usable_cores
from serving.backend.providers import CPU, CUDA, TENSORRT, Acceleration, Precision, ProviderChoice
from serving.backend.sessions import ENCODING, FILE_NAME, VERSION, OnnxBackend, Runtime

__all__ = [
    "CPU",
    "CUDA",
    "ENCODING",
    "FILE_NAME",
    "TENSORRT",
    "VERSION",
    "Acceleration",
    "OnnxBackend",
    "Precision",
    "ProviderChoice",
    "Runtime",
    "count_gpus",
    "has_tensorrt",
    "usable_cores",
]
