"""What of the machine this process may use: cores and GPUs."""

import ctypes
import math
import os
from pathlib import Path

# The library that ONNX Runtime 1.31's TensorRT provider is linked with.
_TENSORRT = "libnvinfer.so.10"


def count_gpus() -> int:
    """The NVIDIA GPUs that the driver shows this process; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def has_tensorrt() -> bool:
    """Whether TensorRT can be loaded; that ONNX Runtime has the provider built in says nothing about it."""
    try:
        ctypes.CDLL(_TENSORRT)
    except OSError:
        return False
    return True


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The cores this process may really use: the least of its affinity and the container's CPU quota, at least 1.

    Args:
        cgroup: where the control groups are mounted; version 2 (``cpu.max``) and 1 (``cpu.cfs_quota_us``) are read.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this platform
        cores = os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def _quota(cgroup: Path) -> float | None:
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text()
        period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text()
        return None if int(limit) <= 0 else int(limit) / int(period)
    except (OSError, ValueError):
        return None
