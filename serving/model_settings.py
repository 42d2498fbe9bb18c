"""How one model is served: limits, versions and labels, from the server's settings and the model's ``serving.json``.

``<repository>/<name>/serving.json`` holds what differs from the server's settings, all of it optional::

    {
      "version_policy": "latest:2",
      "labels": {"stable": 3, "canary": 4},
      "max_batch_size": 32,
      "max_run_pixels": 1048576,
      "allowed_batch_sizes": [1, 8, 32],
      "max_queue_size": 64,
      "max_queue_delay_microseconds": 500,
      "instances": 2
    }
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, StringConstraints, ValidationError

from serving.errors import InvalidInputError, RepositoryError

FILE_NAME = "serving.json"
POLICY_PATTERN = r"^(all|latest:[1-9][0-9]{0,8}|specific:[1-9][0-9]{0,17}(,[1-9][0-9]{0,17})*)$"

# A label never looks like a number, so that a version asked for as text is one or the other.
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$")]
# 64 rows of 256 x 256: of the U-Net such a run takes some 1.1 GB.
MAX_RUN_PIXELS = 64 * 256 * 256

PolicyText = Annotated[str, StringConstraints(pattern=POLICY_PATTERN)]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one model may take on at a time.

    Attributes:
        max_batch_size: most rows in one run, padding included.
        max_queue_size: most requests waiting; those in the runs under way do not count.
        allowed_batch_sizes: rows to which runs are filled up; those above ``max_batch_size`` do not count, and
            ``max_batch_size`` itself always does. Empty: nothing is filled up.
        max_queue_delay: seconds for which the first in line may wait for a fuller batch.
        instances: runs at once.
        max_run_pixels: most pixels in one run, padding included, where the size of pictures is the caller's choice.
    """

    max_batch_size: int
    max_queue_size: int
    allowed_batch_sizes: tuple[int, ...] = ()
    max_queue_delay: float = 0.0
    instances: int = 1
    max_run_pixels: int = MAX_RUN_PIXELS

    def most_rows(self, pixels: int | None) -> int:
        """The most rows in one run, each of so many pixels; None: of a size that the model fixes."""
        return self.max_batch_size if pixels is None else min(self.max_batch_size, self.max_run_pixels // pixels)

    def check_rows(self, name: str, rows: int, pixels: int | None) -> None:
        """Refuses a request of the model ``name`` that no run can hold.

        Args:
            name: for the message.
            rows: of the request.
            pixels: of each; None: of a size that the model fixes.

        Raises:
            InvalidInputError: there are more rows than ``max_batch_size``, or more pixels than ``max_run_pixels``.
        """
        if rows > self.max_batch_size:
            raise InvalidInputError(f"{name} takes at most {self.max_batch_size} rows in one request. Received: {rows}")
        if rows > self.most_rows(pixels):
            raise InvalidInputError(
                f"{name} takes at most {self.max_run_pixels} pixels in one request (max_run_pixels)."
                f" Received: {rows} rows of {pixels}"
            )

    def batch_sizes(self) -> tuple[int, ...]:
        """The sizes that runs are filled up to, rising; empty when nothing is."""
        if not self.allowed_batch_sizes:
            return ()
        return (*sorted({size for size in self.allowed_batch_sizes if size < self.max_batch_size}), self.max_batch_size)


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which versions of a model are served.

    Attributes:
        kind: ``all``, ``latest`` or ``specific``.
        versions: the wanted ones of ``specific``.
        count: the number of ``latest``.
    """

    kind: str = "all"
    versions: tuple[int, ...] = ()
    count: int = 0

    @classmethod
    def parse(cls, text: str) -> "VersionPolicy":
        """Reads ``all``, ``latest:2`` or ``specific:1,3`` (see ``POLICY_PATTERN``)."""
        kind, _, rest = text.partition(":")
        if kind == "latest":
            return cls(kind, count=int(rest))
        return cls(kind, versions=tuple(map(int, rest.split(",")))) if rest else cls(kind)

    def choose(self, folder: Path, found: list[int]) -> list[int]:
        """The versions to serve, rising.

        Args:
            folder: of the model, for the message.
            found: those that are there, rising.

        Raises:
            RepositoryError: one that is asked for is not there, or none is asked for.
        """
        known = ", ".join(map(str, found))
        missing = [version for version in self.versions if version not in found]
        if missing:
            told = ", ".join(map(str, missing))
            raise RepositoryError(f"{folder}: the version policy asks for {told}, not among the versions {known}")
        chosen = {"all": found, "latest": found[-self.count :], "specific": sorted(set(self.versions))}[self.kind]
        if not chosen:
            raise RepositoryError(f"{folder}: the version policy chooses none of the versions {known}")
        return chosen


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How one model is served; the labels name versions."""

    limits: Limits
    policy: VersionPolicy
    labels: dict[str, int]

    def check_labels(self, name: str, served: Collection[int]) -> None:
        """Refuses labels of the model ``name`` that name a version which is not served.

        Raises:
            RepositoryError: there is one.
        """
        for label, version in self.labels.items():
            if version not in served:
                raise RepositoryError(
                    f"{name}: the label {label!r} names version {version}, which is not served."
                    f" Served: {', '.join(map(str, sorted(served))) or 'none'}"
                )


class _File(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    version_policy: PolicyText | None = None
    labels: dict[Label, PositiveInt] = Field(default_factory=dict)
    max_batch_size: PositiveInt | None = None
    max_run_pixels: PositiveInt | None = None
    allowed_batch_sizes: tuple[PositiveInt, ...] | None = None
    max_queue_size: PositiveInt | None = None
    max_queue_delay_microseconds: NonNegativeInt | None = None
    instances: PositiveInt | None = None


def read(folder: Path, limits: Limits, policy: VersionPolicy) -> ModelSettings:
    """The settings of one model.

    Args:
        folder: the model's; its ``serving.json`` may be missing.
        limits: the server's.
        policy: the server's.

    Raises:
        RepositoryError: the file is not as it should be; the message names file, field, expectation and what came.
    """
    path = folder / FILE_NAME
    try:
        told = _File.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return ModelSettings(limits, policy, {})
    except OSError as error:
        raise RepositoryError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        complaints = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'the whole'}: {each['msg']}. Received: {str(each['input'])[:60]!r}"
            for each in error.errors()
        )
        raise RepositoryError(f"{path}: {complaints}") from None
    delay = told.max_queue_delay_microseconds
    return ModelSettings(
        Limits(
            max_batch_size=told.max_batch_size or limits.max_batch_size,
            max_queue_size=told.max_queue_size or limits.max_queue_size,
            allowed_batch_sizes=limits.allowed_batch_sizes
            if told.allowed_batch_sizes is None
            else told.allowed_batch_sizes,
            max_queue_delay=limits.max_queue_delay if delay is None else delay * 1e-6,
            instances=told.instances or limits.instances,
            max_run_pixels=told.max_run_pixels or limits.max_run_pixels,
        ),
        policy if told.version_policy is None else VersionPolicy.parse(told.version_policy),
        told.labels,
    )
