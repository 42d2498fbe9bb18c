"""``python -m serving.video.score``: how good the masks of real videos are, where there are no true masks.

vtest (PETS 2009 S2.L1, with boxes) and Mall (with head counts) go through the job itself, once for each way of
segmenting; its run-length masks are read back and compared with what is known of the scenes:

    covered      share of the pixels of a box that are foreground, mean over all boxes
    hit          share of the boxes of which at least a fifth is foreground; a person fills about half of theirs
    inside       share of the foreground pixels that lie in a box, over all frames
    area_count   Spearman's rank correlation of a frame's foreground share with its number of people, over the frames
    parts_count  likewise, of its number of components
    flicker      share of the pixels that were foreground in just one of two successive frames, mean
    flip         of the pixels that changed, the share that changes back in the very next frame: people move on,
                 flicker returns

Boxes are cut at the frame's edge. No training data of either scene was seen by the models.
"""

import csv
import json
import tempfile
import threading
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from pycocotools import mask as coco
from scipy import io, stats

from serving.imaging import BoolMask
from serving.video import launch
from serving.video.errors import ExitCode
from serving.video.settings import Settings
from serving.video.tables import read_rows

_HIT = 0.2
# What is compared, by name of the comparison: (way, flags of the job). Tiles take up to twelve times as long.
_WAYS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "all": (
        ("whole frames", {}),
        ("whole frames, median of 5", {"smooth": 5}),
    ),
    "every-10th": (
        ("whole frames", {"every": 10}),
        ("tiles of 384", {"every": 10, "tile": "384"}),
        ("tiles of 256 (auto)", {"every": 10, "tile": "auto"}),
    ),
}

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Scores:
    """See the head of the module; None where the scene has no boxes."""

    covered: float | None
    hit: float | None
    inside: float | None
    area_count: float
    parts_count: float
    flicker: float
    flip: float


def score(
    masks: Iterator[BoolMask], parts: Sequence[int], counts: Sequence[int], boxes: Sequence[Sequence[Box]] | None
) -> Scores:
    """Scores one video.

    Args:
        masks: bool [H, W] of each frame, in order.
        parts: number of components of each.
        counts: number of people in each.
        boxes: (left, top, width, height) of the people in each, in pixels; None where they are not known.

    Raises:
        ValueError: not as many masks as counts.
    """
    shares, flickers, covers = [], [], []
    inside = foreground = changed = returned = 0
    before: list[BoolMask] = []
    for number, mask in enumerate(masks):
        shares.append(float(mask.mean()))
        if before:
            change = mask ^ before[-1]
            flickers.append(float(change.mean()))
            if len(before) == 2:
                earlier = before[-1] ^ before[-2]
                changed += int(np.count_nonzero(earlier))
                returned += int(np.count_nonzero(earlier & change))
        before = [*before[-1:], mask]
        if boxes is not None:
            covered, within = _in_boxes(mask, boxes[number])
            covers += covered
            inside += within
            foreground += int(np.count_nonzero(mask))
    if not len(shares) == len(parts) == len(counts):
        raise ValueError(f"each frame has a count. Received: {len(shares)} masks, {len(counts)} counts")
    return Scores(
        covered=float(np.mean(covers)) if covers else None,
        hit=float(np.mean(np.array(covers) >= _HIT)) if covers else None,
        inside=inside / max(1, foreground) if covers else None,
        area_count=_correlation(shares, counts),
        parts_count=_correlation(parts, counts),
        flicker=float(np.mean(flickers)),
        flip=returned / max(1, changed),
    )


def _in_boxes(mask: BoolMask, boxes: Sequence[Box]) -> tuple[list[float], int]:
    """The share of each box that is foreground, and the foreground pixels in any of them."""
    covered: list[float] = []
    union = np.zeros_like(mask)
    for left, top, width, height in boxes:
        rows = slice(max(0, round(top)), max(0, round(top + height)))
        columns = slice(max(0, round(left)), max(0, round(left + width)))
        part = mask[rows, columns]
        if part.size:
            covered.append(float(part.mean()))
            union[rows, columns] = True
    return covered, int(np.count_nonzero(mask & union))


def _correlation(one: Sequence[float], other: Sequence[float]) -> float:
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(stats.spearmanr(one, other).statistic)


def read_boxes(path: Path, frames: int) -> list[list[Box]]:
    """Boxes by frame of a MOTChallenge file: ``frame,id,left,top,width,height,...``, frames counted from 1."""
    found: dict[int, list[Box]] = defaultdict(list)
    with path.open(newline="") as lines:
        for row in csv.reader(lines):
            left, top, width, height = map(float, row[2:6])
            found[int(row[0]) - 1].append((left, top, width, height))
    return [found[number] for number in range(frames)]


def _masks(folder: Path) -> Iterator[BoolMask]:
    with (folder / "masks.rle.jsonl").open() as lines:
        for line in lines:
            mask: npt.NDArray[np.uint8] = coco.decode(json.loads(line))
            yield mask.astype(np.bool_)


def _segment(source: Path, repository: Path, model: str, output: Path, flags: Mapping[str, Any]) -> Path:
    settings = Settings(
        inputs=[str(source)],
        output=output,
        outputs=("rle", "jsonl"),
        model=model,
        model_repository=repository,
        **flags,
    )
    (outcome,) = launch.run(settings, threading.Event())
    if outcome.code != ExitCode.DONE:
        raise typer.Exit(code=outcome.code)
    return output / outcome.name


def run(
    data: Annotated[Path, typer.Option(help="Folder with video/ and mall/.", envvar="SPARSEWALK_DATA")],
    model_repository: Annotated[Path, typer.Option(help="Folder with the models.")] = Path("models"),
    model: Annotated[str, typer.Option(help="Name of the model.")] = "pedestrian_unet",
    compare: Annotated[str, typer.Option(help=f"One of {', '.join(_WAYS)}.")] = "all",
) -> None:
    """Prints the scores as Markdown tables."""
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        with zipfile.ZipFile(data / "mall" / "mall_dataset_first500.zip") as archive:
            archive.extractall(work / "mall_data")
        frames = next(path.parent for path in sorted((work / "mall_data").rglob("seq_000001.jpg")))
        truth = io.loadmat(next((work / "mall_data").rglob("mall_gt.mat")))
        heads = [int(count) for count in truth["count"].ravel()]
        boxes = read_boxes(data / "video" / "vtest_gt_mot.txt", 795)
        scenes: tuple[tuple[str, Path, Sequence[int], Sequence[Sequence[Box]] | None], ...] = (
            ("vtest, 795 frames of 768 x 576", data / "video" / "vtest.avi", [len(each) for each in boxes], boxes),
            ("Mall, frames 1 to 500 of 640 x 480", frames, heads[:500], None),
        )
        for title, source, counts, known in scenes:
            typer.echo(f"\n### {title}\n")
            typer.echo("| | covered | hit | inside | area_count | parts_count | flicker | flip |")
            typer.echo("|---|---|---|---|---|---|---|---|")
            for number, (name, flags) in enumerate(_WAYS[compare]):
                step = flags.get("every", 1)
                folder = _segment(source, model_repository, model, work / f"{source.stem}-{number}", flags)
                parts = [row.count for row in read_rows([folder / "frames.jsonl"])]
                boxed = None if known is None else known[::step]
                typer.echo(_line(name, score(_masks(folder), parts, counts[::step], boxed)))


def _line(name: str, scores: Scores) -> str:
    values = (scores.covered, scores.hit, scores.inside, scores.area_count, scores.parts_count)
    cells = ["" if value is None else f"{value:.3f}" for value in values]
    return f"| {name} | {' | '.join(cells)} | {scores.flicker:.4f} | {scores.flip:.3f} |"


if __name__ == "__main__":
    typer.run(run)
