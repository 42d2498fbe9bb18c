"""Flicker removed over time: each pixel takes the median of the frames around it.

The median of probabilities reaches a threshold just when most of them do, so masks are all that is needed: a pixel is
foreground where it is in more than half of the window. At both ends of an input the window shrinks, and stays centred.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from serving.imaging import BoolMask

Item = TypeVar("Item")


class Smoother(Generic[Item]):
    """Masks in order in, smoothed masks in order out, ``window // 2`` frames later.

    Args:
        window: frames of the median, odd; 1 changes nothing.
    """

    def __init__(self, window: int) -> None:
        self._reach = window // 2
        # The frames from ``reach`` before the next one to come out, up to the newest.
        self._held: deque[tuple[Item, BoolMask]] = deque()
        # How many of those held are behind us: they came out already.
        self._past = 0

    def add(self, item: Item, mask: BoolMask) -> Iterator[tuple[Item, BoolMask]]:
        """Takes the next frame; yields those whose window is whole now."""
        self._held.append((item, mask))
        if len(self._held) - self._past > self._reach:
            yield self._next()

    def end(self) -> Iterator[tuple[Item, BoolMask]]:
        """The frames that are left when no more come."""
        while len(self._held) > self._past:
            yield self._next()

    def _next(self) -> tuple[Item, BoolMask]:
        item, mask = self._held[self._past]
        reach = min(self._past, len(self._held) - 1 - self._past, self._reach)
        if reach:
            window = list(self._held)[self._past - reach : self._past + reach + 1]
            mask = median(each for _, each in window)
        self._past += 1
        while self._past > self._reach:
            self._held.popleft()
            self._past -= 1
        return item, mask


def median(masks: Iterable[BoolMask]) -> BoolMask:
    """The pixel-wise majority of an odd number of masks, each bool [H, W]."""
    total: npt.NDArray[np.uint8] | None = None
    count = 0
    for mask in masks:
        values = mask.view(np.uint8)
        total = values.copy() if total is None else total + values
        count += 1
    assert total is not None  # the caller's own frame is among them
    return total > count // 2
