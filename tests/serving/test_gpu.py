from types import SimpleNamespace
from typing import Any

import pytest

from serving.gpu import Gpu, Gpus


class NvmlError(Exception):
    pass


class Library:
    """NVML with two GPUs, the second of which tells next to nothing."""

    NVMLError = NvmlError
    NVML_TEMPERATURE_GPU = 0

    def nvmlInit(self) -> None:  # noqa: N802  # NVML's own names
        pass

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return f"GPU-{handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(used=3 * 2**30, total=80 * 2**30 + handle)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        self._refuse(handle)
        return SimpleNamespace(gpu=40)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:  # noqa: N802
        self._refuse(handle)
        return 250_500

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:  # noqa: N802
        assert sensor == self.NVML_TEMPERATURE_GPU
        self._refuse(handle)
        return 61

    def _refuse(self, handle: int) -> None:
        if handle == 1:
            raise NvmlError("not supported")


def test_what_the_driver_tells_and_nothing_else() -> None:
    assert list(Gpus(Library()).read()) == [
        Gpu(0, "GPU-0", 0.4, 3 * 2**30, 80 * 2**30, 250.5, 61),
        Gpu(1, "GPU-1", None, 3 * 2**30, 80 * 2**30 + 1, None, None),
    ]


@pytest.mark.parametrize("error", [ImportError("no module named pynvml"), NvmlError("driver not loaded")])
def test_without_a_driver_there_are_no_gpus(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> Any:
        assert name == "pynvml"
        raise error

    monkeypatch.setattr("serving.gpu.importlib.import_module", find)
    assert Gpus.find() is None


def test_with_a_driver_its_library_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.gpu.importlib.import_module", lambda _: Library())
    found = Gpus.find()
    assert found is not None
    assert [gpu.index for gpu in found.read()] == [0, 1]
