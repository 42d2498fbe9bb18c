"""One's own data: ``--data folder:PATH`` or ``--data coco:FILE``.

For segmentation::

    folder:PATH     PATH/images/NAME.{jpg,jpeg,png,bmp,webp} with PATH/masks/NAME.png: 0 is background, every other
                    value a person
    coco:FILE       annotations in COCO's JSON; the pictures lie beside FILE or in images/ beside it. Persons are the
                    categories named "person" or "pedestrian", or all categories where there is none of them

For the encoders of digits::

    folder:PATH     any pictures, below PATH at any depth; each becomes 28x28 grey values. Where they lie in folders of
                    their own, as torchvision's ImageFolder has it, these are the classes of the linear probes

At least four of them, for each half needs two that differ: of equal ones there is no variance to be explained.

Sorted by name, every other picture is for training and the rest for testing, as with Penn-Fudan. Pictures that have
classes are then shuffled within their halves, always alike, so that the first so many of them are a sample of all
classes. With a file more or less, others are for testing: a run keeps the fingerprint of the files it was trained on.
Everything is checked before anything is trained, and all faults are told at once, by file name.
"""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO

from training.datasets.decoding import PICTURES, read_grey, read_rgb, read_values
from training.datasets.digits import SIDE, DigitData
from training.datasets.pedestrians import PedestrianData, PedestrianScene
from training.datasets.resizing import resample
from training.datasets.source import DataError

PERSONS = ("person", "pedestrian")
_KINDS = ("folder", "coco")
_IMAGE_FIELDS = {"id": (int, str), "file_name": str, "height": int, "width": int}
_CATEGORY_FIELDS = {"id": (int, str), "name": str}
_ORDER_SEED = 20

T = TypeVar("T")

logger = logging.getLogger(__name__)


def is_own(choice: str) -> bool:
    """Whether ``choice`` names data of one's own rather than a policy."""
    return choice.partition(":")[0] in _KINDS and ":" in choice


def load_scenes(choice: str) -> PedestrianData:
    """Pictures with pedestrian masks.

    Args:
        choice: "folder:PATH" or "coco:FILE".

    Raises:
        DataError: faults, all of them by file name; fewer than two pictures, or nobody in those to train on.
    """
    kind, path = _split(choice)
    scenes, files = _folder_scenes(path) if kind == "folder" else _coco_scenes(path)
    train, test = _halves(scenes, 1, path)
    if not any(scene.mask.any() for scene in train):
        raise DataError(f"{path}: expected persons in the pictures to train on. Received: none in any of {len(train)}")
    return PedestrianData(f"{kind}:{path.name}", "real", train, test, f"{kind}:{path}", _fingerprint(files))


def load_pictures(choice: str) -> DigitData:
    """Any pictures as 28x28 grey values in 0..1.

    Args:
        choice: "folder:PATH".

    Raises:
        DataError: faults, all of them by file name; fewer than four pictures, or half of them all alike.
    """
    kind, path = _split(choice)
    if kind != "folder":
        raise DataError(f"an encoder of 28x28 pictures reads folder:PATH. Received: {choice}")
    files = _sorted_files(path, "**/*")
    classes = sorted({file.parent for file in files})
    label_of = {folder: index for index, folder in enumerate(classes)}
    rows = _all_or_faults(files, lambda file: (_grey_row(file), label_of[file.parent]), path)
    rng = np.random.default_rng(_ORDER_SEED)
    train, test = ([half[index] for index in rng.permutation(len(half))] for half in _halves(rows, 2, path))
    for half, purpose in ((train, "train on"), (test, "test")):
        if all(np.array_equal(row, half[0][0]) for row, _ in half):
            raise DataError(f"{path}: expected different pictures to {purpose}. Received: {len(half)} that are alike")
    return DigitData(
        f"folder:{path.name}",
        "real",
        np.stack([row for row, _ in train]),
        np.array([label for _, label in train], np.int64),
        np.stack([row for row, _ in test]),
        np.array([label for _, label in test], np.int64),
        location=f"folder:{path}",
        fingerprint=_fingerprint(_named_below(path, files)),
    )


def _split(choice: str) -> tuple[str, Path]:
    kind, _, text = choice.partition(":")
    path = Path(text).expanduser().resolve()
    expected = path.is_dir() if kind == "folder" else path.is_file()
    if not text or not expected:
        what = "folder" if kind == "folder" else "JSON file"
        raise DataError(f"{kind}: expects an existing {what}. Received: {text!r}")
    return kind, path


def _named_below(folder: Path, files: Sequence[Path]) -> dict[str, Path]:
    return {file.relative_to(folder).as_posix(): file for file in files}


def _fingerprint(files: Mapping[str, Path]) -> str:
    """SHA-256 of all names and contents: not of where the files lie, so that they may be moved together."""
    digest = hashlib.sha256()
    for name in sorted(files):
        with files[name].open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest() + os.fsencode(name) + b"\0")
    return digest.hexdigest()


def _sorted_files(folder: Path, pattern: str) -> list[Path]:
    return sorted(file for file in folder.glob(pattern) if file.suffix.lower() in PICTURES and file.is_file())


def _all_or_faults(items: Sequence[Any], load: Callable[[Any], T], where: Path) -> list[T]:
    """Loads everything; where anything is at fault, raises one error that lists all faults."""
    loaded, faults = [], []
    for item in items:
        try:
            loaded.append(load(item))
        except (DataError, OSError) as error:
            faults.append(str(error))
    if faults:
        raise DataError(f"{where}: {len(faults)} of {len(items)} are at fault:\n  " + "\n  ".join(faults))
    return loaded


def _halves(items: Sequence[T], least: int, where: Path) -> tuple[tuple[T, ...], tuple[T, ...]]:
    if len(items) < 2 * least:
        raise DataError(f"{where}: expected at least {2 * least} pictures, half to test on. Received: {len(items)}")
    return tuple(items[0::2]), tuple(items[1::2])


def _folder_scenes(path: Path) -> tuple[list[PedestrianScene], Mapping[str, Path]]:
    """The scenes, and by name the files that they were read from."""
    pictures = _sorted_files(path / "images", "*")
    masks = {file.stem: file for file in (path / "masks").glob("*.png")}
    stems = Counter(file.stem for file in pictures)

    def load(file: Path) -> PedestrianScene:
        if stems[file.stem] > 1:
            raise DataError(
                f"{file.name}: expected one picture for masks/{file.stem}.png. Received: {stems[file.stem]}"
            )
        if file.stem not in masks:
            raise DataError(f"{file.name}: no mask; expected masks/{file.stem}.png")
        picture, mask = read_rgb(file), read_values(masks[file.stem])
        if mask.ndim != 2 or mask.dtype not in (np.uint8, np.uint16):
            raise DataError(
                f"masks/{file.stem}.png: expected one channel of 8 or 16 bits. Received: {mask.dtype} {mask.shape}"
            )
        if mask.shape != picture.shape[:2]:
            raise DataError(
                f"masks/{file.stem}.png: expected the size of its picture, {picture.shape[:2]}. Received: {mask.shape}"
            )
        return PedestrianScene(file.stem, picture, mask)

    scenes = _all_or_faults(pictures, load, path)
    orphans = sorted(set(masks) - {file.stem for file in pictures})
    if orphans:
        raise DataError(f"{path}: masks without a picture in images/: {', '.join(orphans)}")
    return scenes, _named_below(path, [*pictures, *masks.values()])


def _coco_scenes(path: Path) -> tuple[list[PedestrianScene], Mapping[str, Path]]:
    """The scenes, and by name the files that they were read from."""
    coco = _read_coco(path)
    categories = coco.dataset.get("categories", [])
    wanted = [category["id"] for category in categories if category["name"].lower() in PERSONS]
    if categories and not wanted:
        names = ", ".join(category["name"] for category in categories)
        logger.warning("%s: no category is named %s; all of these count: %s", path, " or ".join(PERSONS), names)
    identities = Counter(entry["id"] for entry in coco.dataset["images"])
    lost = [annotation for image, found in coco.imgToAnns.items() if image not in identities for annotation in found]
    if lost:
        logger.warning("%s: %d annotations are of images that it does not list, and left out", path, len(lost))
    files, seen = {path.name: path}, set[Path]()

    def load(entry: dict[str, Any]) -> PedestrianScene:
        name = entry["file_name"]
        if identities[entry["id"]] > 1:
            raise DataError(f"{name}: expected an id of its own. Received: {entry['id']!r}, which others have as well")
        # By Windows' rules, which know both kinds of slash: samples of the picture are written under its name.
        if PureWindowsPath(name).anchor or ".." in PureWindowsPath(name).parts:
            raise DataError(
                f"{name}: expected a path within the folder of {path.name}. Received: one that leads out of it"
            )
        file = next((place / name for place in (path.parent, path.parent / "images") if (place / name).is_file()), None)
        if file is None:
            raise DataError(f"{name}: no such picture beside {path.name} or in images/")
        if file.resolve() in seen:
            raise DataError(f"{name}: expected each picture once. Received: another image with the same file")
        seen.add(file.resolve())
        files[name] = file
        picture = read_rgb(file)
        if picture.shape[:2] != (entry["height"], entry["width"]):
            raise DataError(
                f"{name}: expected {entry['height']}x{entry['width']} as annotated. "
                f"Received: {picture.shape[0]}x{picture.shape[1]}"
            )
        instances = np.zeros(picture.shape[:2], np.uint16)
        for number, annotation in enumerate(_annotations(coco, entry["id"], wanted), start=1):
            mask = _mask_of(coco, annotation, name)
            if mask.shape != instances.shape:
                raise DataError(
                    f"{name}: annotation {annotation.get('id')}: expected a mask of the picture's size, "
                    f"{instances.shape}. Received: {mask.shape}"
                )
            instances[mask] = number
        return PedestrianScene(name, picture, instances)

    images = sorted(coco.dataset["images"], key=lambda entry: entry["file_name"])
    return _all_or_faults(images, load, path), files


def _read_coco(path: Path) -> COCO:
    coco = COCO()
    try:
        coco.dataset = _json(path)
        missing = {"images", "annotations"} - set(coco.dataset)
        if missing:
            raise DataError(f"{path}: COCO's JSON has lists 'images' and 'annotations'. Received: no {sorted(missing)}")
        _check_entries(coco.dataset["images"], "image", _IMAGE_FIELDS, path)
        _check_entries(coco.dataset.get("categories", []), "category", _CATEGORY_FIELDS, path)
        coco.createIndex()
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: an entry lacks a field that COCO's format has. Received: {error!r}") from error
    return coco


def _check_entries(entries: Iterable[Any], what: str, fields: Mapping[str, Any], path: Path) -> None:
    wrong = [
        entry
        for entry in entries
        if not isinstance(entry, dict) or not all(isinstance(entry.get(field), fields[field]) for field in fields)
    ]
    if wrong:
        raise DataError(
            f"{path}: every {what} has {sorted(fields)}, names as text and sizes as whole numbers. Received: {wrong}"
        )


def _annotations(coco: COCO, image: int, categories: list[int]) -> Iterator[dict[str, Any]]:
    yield from coco.loadAnns(coco.getAnnIds(imgIds=[image], catIds=categories))


def _mask_of(coco: COCO, annotation: dict[str, Any], name: str) -> npt.NDArray[np.bool_]:
    try:
        mask: npt.NDArray[np.bool_] = coco.annToMask(annotation) > 0
    except Exception as error:  # pycocotools raises whatever its C part makes of a broken segmentation
        raise DataError(f"{name}: annotation {annotation.get('id')} has no readable segmentation ({error})") from error
    return mask


def _json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: expected COCO's JSON. Received: {error}") from error
    return value


def _grey_row(file: Path) -> npt.NDArray[np.float32]:
    row: npt.NDArray[np.float32] = resample(read_grey(file), SIDE, SIDE).reshape(-1).astype(np.float32)
    return row / np.float32(255)
