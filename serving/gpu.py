"""How the machine's NVIDIA GPUs fare, as their driver tells (NVML); nothing where there is no driver."""

import importlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU now; None for what it does not tell.

    Attributes:
        index: as ``nvidia-smi`` numbers it.
        uuid: which never changes.
        utilization: share of the last moments in which something ran, 0..1.
        memory_used, memory_total: bytes.
        power: watts.
        temperature: degrees Celsius.
    """

    index: int
    uuid: str
    utilization: float | None
    memory_used: int | None
    memory_total: int | None
    power: float | None
    temperature: float | None


class Gpus:
    """The GPUs of this machine.

    Args:
        library: NVML, as ``nvidia-ml-py`` binds it, initialised.
    """

    def __init__(self, library: Any) -> None:
        self._library = library

    @classmethod
    def find(cls) -> "Gpus | None":
        """Opens the driver's library; None where there is none."""
        try:
            library = importlib.import_module("pynvml")
            library.nvmlInit()
        except ImportError:
            return None
        except Exception as error:
            # NVMLError, a class that is made when the library is imported.
            _log.debug("no NVIDIA driver: %s", error)
            return None
        return cls(library)

    def read(self) -> Iterator[Gpu]:
        """Each GPU as it is now."""
        library = self._library
        for index in range(self._told(library.nvmlDeviceGetCount) or 0):
            handle = self._told(library.nvmlDeviceGetHandleByIndex, index)
            if handle is None:  # it fell off the bus
                continue
            rates = self._told(library.nvmlDeviceGetUtilizationRates, handle)
            memory = self._told(library.nvmlDeviceGetMemoryInfo, handle)
            milliwatts = self._told(library.nvmlDeviceGetPowerUsage, handle)
            yield Gpu(
                index=index,
                uuid=str(self._told(library.nvmlDeviceGetUUID, handle) or ""),
                utilization=None if rates is None else rates.gpu / 100,
                memory_used=None if memory is None else memory.used,
                memory_total=None if memory is None else memory.total,
                power=None if milliwatts is None else milliwatts / 1000,
                temperature=self._told(library.nvmlDeviceGetTemperature, handle, library.NVML_TEMPERATURE_GPU),
            )

    def _told(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        """An answer of the library's; None where it has none, as virtual and older GPUs do for some."""
        try:
            return ask(*arguments)
        except self._library.NVMLError:
            return None
