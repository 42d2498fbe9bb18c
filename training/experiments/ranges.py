"""The ranges that settings lie in, said where a setting is declared: ``epochs: PositiveInt``.

:class:`~training.experiments.base.Experiment` holds every setting to the range in its type, whoever has set it.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Range:
    """Finite numbers from ``least`` to ``most``.

    Attributes:
        least: the smallest.
        most: the largest; infinite where there is none.
        above: whether ``least`` itself is excluded.
        below: whether ``most`` itself is excluded.
    """

    least: float
    most: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.least < value if self.above else self.least <= value)
            and (value < self.most if self.below else value <= self.most)
        )

    def __str__(self) -> str:
        """What follows "must" in a message."""
        if math.isinf(self.most):
            return f"be finite and above {self.least}" if self.above else f"be finite, {self.least} or more"
        excluded = " and ".join(f"{end}" for end, out in ((self.least, self.above), (self.most, self.below)) if out)
        return f"lie in {self.least}..{self.most}" + (f", {excluded} excluded" if excluded else "")


PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
PositiveFloat = Annotated[float, Range(0, above=True)]
NonNegativeFloat = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]


def outside(settings: Any) -> Iterator[tuple[str, Range, Any]]:
    """Name, range and value of each field of a dataclass object that lies outside the range in the field's type.

    The range in a tuple's type holds for each of its elements.
    """
    kinds = typing.get_type_hints(type(settings), include_extras=True)
    for field in dataclasses.fields(settings):
        kind, value = kinds[field.name], getattr(settings, field.name)
        several = typing.get_origin(kind) is tuple
        for note in getattr(typing.get_args(kind)[0] if several else kind, "__metadata__", ()):
            if isinstance(note, Range) and not all(one in note for one in (value if several else (value,))):
                yield field.name, note, value
