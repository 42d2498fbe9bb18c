"""What a frame's mask measures, and the tables of it: JSON lines, Parquet, COCO run-lengths.

    frame       int64    number of the frame in the input
    time        float64  seconds since the input's start
    foreground  float64  share of the frame that is pedestrian, 0..1
    count       int32    number of components
    components  list     8-connected parts of at least ``min_area`` pixels, from top to bottom and left to right, each a
                         struct of x, y, width, height (its box) and area, in pixels

Every table is made of the lines that the shards keep, so it does not depend on how often the job was interrupted.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pycocotools import mask as coco

from serving.imaging import BoolMask
from serving.video.reading import Frame

_COMPONENT = pa.struct([(name, pa.int32()) for name in ("x", "y", "width", "height")] + [("area", pa.int64())])
SCHEMA = pa.schema(
    [
        pa.field("frame", pa.int64(), nullable=False),
        pa.field("time", pa.float64(), nullable=False),
        pa.field("foreground", pa.float64(), nullable=False),
        pa.field("count", pa.int32(), nullable=False),
        pa.field("components", pa.list_(_COMPONENT), nullable=False),
    ]
)
_GROUP_ROWS = 16_384
_LABELS = 2**16 - 1


@dataclass(frozen=True, slots=True)
class Component:
    """A connected part of a mask: its box and its area, in pixels."""

    x: int
    y: int
    width: int
    height: int
    area: int


@dataclass(frozen=True, slots=True)
class Row:
    """What one frame's mask measures; see the head of the module."""

    frame: int
    time: float
    foreground: float
    count: int
    components: tuple[Component, ...]


def measure(frame: Frame, mask: BoolMask, min_area: int) -> Row:
    """The row of one frame."""
    components = tuple(
        sorted(
            (part for part in _components(mask.view(np.uint8)) if part.area >= min_area),
            key=lambda part: (part.y, part.x, part.height, part.width),
        )
    )
    share = cv2.countNonZero(mask.view(np.uint8)) / mask.size
    return Row(frame.number, frame.time, share, len(components), components)


def _components(mask: npt.NDArray[np.uint8]) -> Iterator[Component]:
    """The 8-connected parts of a mask [H, W] of 0 and 1, in any order."""
    # Only where something is: labelling costs more than everything else here.
    left, top, width, height = cv2.boundingRect(mask)
    if not width:
        return
    inside = mask[top : top + height, left : left + width]
    # Half the time with labels of 16 bits. There are no more of them than runs of pixels in all rows.
    runs = cv2.countNonZero(cv2.compare(inside[:, 1:], inside[:, :-1], cv2.CMP_GT)) + height if width > 1 else height
    depth = cv2.CV_16U if runs < _LABELS else cv2.CV_32S
    _, _, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=8, ltype=depth)
    # The first is the background.
    for x, y, wide, high, area in stats[1:].tolist():
        yield Component(left + x, top + y, wide, high, area)


def row_line(row: Row) -> str:
    """A row as one line of JSON."""
    return json.dumps(asdict(row), separators=(",", ":")) + "\n"


def rle_line(frame: Frame, mask: BoolMask) -> str:
    """A mask as one line of JSON, run-length encoded as pycocotools reads it."""
    counts = coco.encode(np.asfortranarray(mask.view(np.uint8)))["counts"].decode()
    told = {"frame": frame.number, "time": frame.time, "size": list(mask.shape), "counts": counts}
    return json.dumps(told, separators=(",", ":")) + "\n"


def read_rows(parts: Iterable[Path]) -> Iterator[Row]:
    """The rows of files of JSON lines, one by one."""
    for part in parts:
        with part.open(encoding="utf-8") as lines:
            for line in lines:
                told = json.loads(line)
                components = tuple(Component(**each) for each in told.pop("components"))
                yield Row(components=components, **told)


def concatenate(parts: Sequence[Path], path: Path) -> None:
    """Joins files of JSON lines."""
    with path.open("wb") as whole:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole)


def write_parquet(parts: Sequence[Path], path: Path) -> None:
    """Turns files of JSON lines into one Parquet table; the same rows give the same bytes."""
    rows = read_rows(parts)
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        while group := [asdict(row) for row in islice(rows, _GROUP_ROWS)]:
            writer.write_table(pa.Table.from_pylist(group, schema=SCHEMA))
