"""What is done of one input, on disk, so that a kill at any moment costs at most a shard.

    OUTPUT/.work/NAME/lock              held while a job works on the input
    OUTPUT/.work/NAME/journal.json      what the shards were made with; another job's are never mixed in
    OUTPUT/.work/NAME/clip.json         what the input is
    OUTPUT/.work/NAME/shards/000007/    a finished shard: files of each output, and record.json
    OUTPUT/.work/NAME/shards/.000008/   one being written; thrown away when a job begins
    OUTPUT/.work/NAME/ended.json        written when the input has been read to its end
    OUTPUT/.work/NAME/whole/            the outputs being joined, likewise
    OUTPUT/.work/NAME/old/              earlier outputs being thrown away, likewise
    OUTPUT/NAME/                        the outputs, by one rename; .work/NAME then goes; journal.json also
                                        tells what was met in the input

Shards are numbered from 0 and follow upon each other in the input.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from serving.video.errors import InputError, writing
from serving.video.planes import Colours
from serving.video.reading import Anchor, Clip, Note

SCHEMA = 2
JOURNAL = "journal.json"
RECORD = "record.json"
_ENDED = "ended.json"
_CLIP = "clip.json"


@dataclass(frozen=True, slots=True)
class Record:
    """A finished shard.

    Attributes:
        frames: how many it has.
        anchors: of its last frames, in order: where reading can go on.
        notes: what was met, and how often.
    """

    frames: int
    anchors: tuple[Anchor, ...]
    notes: tuple[tuple[Note, int], ...]


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of an input: how many shards it has, and what was met behind the last frame."""

    shards: int
    notes: tuple[tuple[Note, int], ...]


class Store:
    """The work on one input.

    Args:
        output: the job's output folder.
        name: of the input.
    """

    def __init__(self, output: Path, name: str) -> None:
        self.final = output / name
        self._work = output / ".work" / name
        self._shards = self._work / "shards"
        self._lock: int | None = None

    def open(self, made_with: Mapping[str, Any], *, resume: bool, overwrite: bool) -> bool:
        """Begins, or goes on.

        Args:
            made_with: everything that decides the results.
            resume: goes on with what an earlier job left.
            overwrite: throws it away.

        Returns:
            Whether the outputs are there already, and whole.

        Raises:
            InputError: there are earlier results and neither is asked for; those were made with other settings; another
                job is at work; or the folder cannot be written.
            FaultError: the disk is full.
        """
        try:
            self._work.mkdir(parents=True, exist_ok=True)
            self._seize()
            journal = self._journal()
            if overwrite and journal is not None:
                self._clear()
                if self.final.exists():
                    # At once, whenever a kill comes: half of it under its name would be nobody's.
                    self.final.rename(self._work / "old")
                journal = None
            if journal is None:
                self._clear()
                self._shards.mkdir()
                self._write(self._work / JOURNAL, {"schema": SCHEMA, "made_with": made_with})
                return False
            if not resume:
                where = self.final if self.final.exists() else self._work
                raise InputError(
                    f"{where}: an earlier job left its results; give --resume, --overwrite or another --output"
                )
            _compare(self._work.parent.parent / self.final.name, journal, made_with)
            if self.final.exists():
                self._clear()
                return True
            for path in self._shards.glob(".*"):
                shutil.rmtree(path)
        except OSError as error:
            raise writing(error, error.filename or self._work) from error
        return False

    @contextmanager
    def shard_folder(self, number: int) -> Iterator[Path]:
        """An empty folder for a shard's files, to be committed; otherwise it goes when the block ends.

        Its name is the process's own, since on a cluster a task may be thought dead and be alive.
        """
        folder = self._shards / f".{number:06}-{os.uname().nodename}-{os.getpid()}"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise writing(error, folder) from error
        try:
            yield folder
        finally:
            # Not committed: its room may be just what is missing.
            shutil.rmtree(folder, ignore_errors=True)

    def commit(self, folder: Path, number: int, record: Record) -> None:
        """Makes the shard in a ``shard_folder`` a finished one.

        Raises:
            JobError: it cannot be written.
        """
        target = self.shard(number)
        try:
            self._write(folder / RECORD, _record_to_json(record))
            if not target.exists():  # else somebody else has written the same
                folder.rename(target)
        except OSError as error:
            raise writing(error, target) from error

    def finished(self) -> dict[int, Record]:
        """The finished shards, by number."""
        found = {}
        for folder in sorted(self._shards.glob("[0-9]*")):
            found[int(folder.name)] = _record_from_json(json.loads((folder / RECORD).read_text()))
        return found

    def shard(self, number: int) -> Path:
        """The folder of a finished shard."""
        return self._shards / f"{number:06}"

    @property
    def clip(self) -> Clip | None:
        """What the input is, once it has been opened."""
        try:
            told = json.loads((self._work / _CLIP).read_text())
        except FileNotFoundError:
            return None
        told |= {key: Fraction(told[key]) for key in ("time_base", "rate", "aspect")}
        told["colours"] = Colours(**told["colours"])
        return Clip(**told)

    def keep_clip(self, clip: Clip) -> None:
        """Notes what the input is."""
        self._write(self._work / _CLIP, {key: _plain(value) for key, value in asdict(clip).items()})

    @property
    def ending(self) -> Ending | None:
        """The input's end, once it has been read to there."""
        try:
            told = json.loads((self._work / _ENDED).read_text())
        except FileNotFoundError:
            return None
        return Ending(told["shards"], _notes_from_json(told["notes"]))

    def end(self, ending: Ending) -> None:
        """Notes that the input has been read to its end."""
        self._write(self._work / _ENDED, {"shards": ending.shards, "notes": _notes_to_json(ending.notes)})

    @property
    def notes(self) -> dict[Note, int]:
        """What was met in an input of which the outputs are there, and how often."""
        return dict(_notes_from_json(json.loads((self.final / JOURNAL).read_text()).get("notes", [])))

    @contextmanager
    def whole(self, notes: Mapping[Note, int]) -> Iterator[Path]:
        """A folder for the joined outputs; it gets its final name when the block ends well, and the work goes.

        Args:
            notes: what was met in the input up to the block's end, and how often; kept beside the outputs.
        """
        folder = self._work / "whole"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder
        journal = json.loads((self._work / JOURNAL).read_text())
        self._write(folder / JOURNAL, journal | {"notes": _notes_to_json(tuple(notes.items()))})
        folder.rename(self.final)
        self._clear()

    def close(self) -> None:
        """Lets others work on the input."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        for folder in (self._work, self._work.parent):
            if self.final.exists():
                with suppress(OSError):  # others' work is in it
                    (folder / "lock").unlink(missing_ok=True)
                    folder.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _seize(self) -> None:
        self._lock = os.open(self._work / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"{self._work}: another job is at work on this input") from error

    def _journal(self) -> dict[str, Any] | None:
        """What the outputs or the finished shards were made with; None where there are neither."""
        for folder in (self.final, self._work):
            if folder == self._work and not any(self._shards.glob("[0-9]*")):
                return None
            try:
                told: dict[str, Any] = json.loads((folder / JOURNAL).read_text())
            except FileNotFoundError:
                if folder == self.final and folder.exists():
                    raise InputError(
                        f"{folder}: this folder is not of an earlier job; give another --output, or remove it"
                    ) from None
                continue
            except (OSError, ValueError) as error:
                raise InputError(f"{folder / JOURNAL}: cannot be read: {error}") from error
            return told
        return None

    def _clear(self) -> None:
        # First, since it vouches for the shards.
        (self._work / JOURNAL).unlink(missing_ok=True)
        for path in self._work.iterdir():
            if path.name != "lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    @staticmethod
    def _write(path: Path, told: Any) -> None:
        """Writes JSON whole or not at all."""
        aside = path.with_name(f".{path.name}")
        try:
            aside.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
            aside.replace(path)
        except OSError as error:
            raise writing(error, path) from error


def _compare(where: Path, journal: Mapping[str, Any], made_with: Mapping[str, Any]) -> None:
    if journal.get("schema") != SCHEMA:
        raise InputError(f"{where}: an earlier job of another release left its results; give --overwrite")
    # Through JSON, as the other went.
    now, before = json.loads(json.dumps(made_with)), journal["made_with"]
    for key in sorted(now):
        if key == "digest" and not (now[key] and before.get(key)):
            continue  # the service does not tell
        if now[key] != before.get(key):
            raise InputError(
                f"{where}: an earlier job's results cannot be continued: {key} was {before.get(key)!r},"
                f" now it is {now[key]!r}; give the same, or --overwrite"
            )


def _record_to_json(record: Record) -> dict[str, Any]:
    return {
        "frames": record.frames,
        "anchors": [[anchor.number, anchor.pts, anchor.digest] for anchor in record.anchors],
        "notes": _notes_to_json(record.notes),
    }


def _record_from_json(told: Mapping[str, Any]) -> Record:
    anchors = tuple(Anchor(*anchor) for anchor in told["anchors"])
    return Record(told["frames"], anchors, _notes_from_json(told["notes"]))


def _notes_to_json(notes: tuple[tuple[Note, int], ...]) -> list[list[Any]]:
    return [[note.text, note.loses, count] for note, count in notes]


def _notes_from_json(told: list[list[Any]]) -> tuple[tuple[Note, int], ...]:
    return tuple((Note(text, loses), count) for text, loses, count in told)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Fraction) else value
