"""Files that appear whole or not at all: written aside, flushed, renamed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMPORARY_PREFIX = ".tmp-"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the folder of ``path``; on success it takes the place of ``path``.

    Nothing remains on failure, and whatever stood at ``path`` before stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yields an empty folder in ``parent``, removed at the end unless :func:`publish` has moved it."""
    parent.mkdir(parents=True, exist_ok=True)
    temporary = parent / f"{TEMPORARY_PREFIX}{os.getpid()}-folder"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish(temporary: Path, target: Path) -> None:
    """Flushes a temporary folder and everything in it to disk and renames it to ``target``.

    Raises:
        OSError: ``target`` is a folder with content already.
    """
    for entry in sorted(temporary.rglob("*"), reverse=True):
        _flush(entry)
    _flush(temporary)
    temporary.rename(target)
    _flush(target.parent)


def remove_leftovers(folder: Path) -> list[Path]:
    """Removes what killed processes left aside in ``folder``; returns what was removed.

    Temporary entries of processes that are still alive are left alone.
    """
    removed = []
    for entry in sorted(folder.glob(f"{TEMPORARY_PREFIX}*")):
        owner = entry.name.removeprefix(TEMPORARY_PREFIX).partition("-")[0]
        if owner.isdecimal() and _alive(int(owner)):
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
        removed.append(entry)
    return removed


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` as UTF-8, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
