"""Where data comes from: the policy a caller states, the source that was used, and the errors of this package.

Errors:
    DataError
    └── DataUnavailable     nowhere to be had: the only error on which the policy `auto` falls back
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar, get_args

logger = logging.getLogger("training.datasets")

DataPolicy = Literal["auto", "real", "embedded"]
DataSource = Literal["real", "embedded"]

DATA_VARIABLE = "SPARSEWALK_DATA"

T = TypeVar("T")


class DataError(Exception):
    """Data that is missing, broken or not what its name promises; the message names file, expectation and what came."""


class DataUnavailable(DataError):  # noqa: N818 - a state of the world, and `DataUnavailableError` says no more
    """Data found neither under SPARSEWALK_DATA nor in the cache nor on any mirror; the message lists what was tried."""


def find(relative: str, *, expected: bool = True) -> Path | None:
    """Find a file of the real data under the folder that SPARSEWALK_DATA names.

    Args:
        relative: Path below that folder, for example "mnist/train-images-idx3-ubyte.gz".
        expected: Whether a folder or file that is missing is worth a warning.

    Returns:
        The file, or None when the variable is unset or empty, or folder or file are missing (which is logged loudly
        where the file is expected: whoever sets the variable expects it to be used).
    """
    value = os.environ.get(DATA_VARIABLE, "")
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        if expected:
            logger.warning("%s names no folder. Received: %s", DATA_VARIABLE, value)
        return None
    path = folder / relative
    if not path.is_file():
        if expected:
            logger.warning("%s has no file %s. Received: %s", DATA_VARIABLE, relative, value)
        return None
    return path


def choose(name: str, policy: DataPolicy, real: Callable[[], T], embedded: Callable[[], T]) -> T:
    """Load real or embedded data as the policy asks.

    Only data that cannot be had is replaced under `auto`. A file that is there but broken raises under every policy
    but `embedded`: whoever put it there wants to know.

    Args:
        name: What is loaded, for messages ("Penn-Fudan").
        policy: `auto`, `real` or `embedded`.
        real: Loads the real data; raises DataUnavailable when it cannot be had.
        embedded: Loads the stand-in.

    Returns:
        What `real` or `embedded` returned.

    Raises:
        DataError: For an unknown policy, broken data, or (policy `real`) data that cannot be had.
    """
    if policy not in get_args(DataPolicy):
        raise DataError(f"The data policy must be one of {', '.join(get_args(DataPolicy))}. Received: {policy!r}")
    if policy == "embedded":
        return embedded()
    try:
        return real()
    except DataUnavailable as error:
        if policy == "real":
            raise
        logger.warning(
            "%s: NO REAL DATA, FALLING BACK TO THE EMBEDDED DATA. Scores on it say nothing about the real data. %s",
            name,
            error,
        )
        return embedded()
