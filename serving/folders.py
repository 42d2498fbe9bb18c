"""What lies in the repository's folder: names, versions, and whether their files have changed."""

import hashlib
import logging
import re
from contextlib import suppress
from functools import cache
from pathlib import Path

from serving import backend
from serving import manifest as manifests
from serving.errors import RepositoryError

_log = logging.getLogger(__name__)


def find_models(root: Path) -> list[str]:
    """The names of the models under a repository root.

    Folders whose name no model can have (``lost+found`` of a volume) are left out, which is logged once.

    Raises:
        RepositoryError: the root is no folder, cannot be read, or holds no model.
    """
    if not _is_folder(root):
        raise RepositoryError(
            f"{root}: the model repository is no folder; --model-repository names one, and the released models lie in"
            " deploy/models of Sparsewalk's source"
        )
    names = [folder.name for folder in _folders(root) if _may_be_a_model(folder)]
    if not names:
        raise RepositoryError(f"{root}: the model repository is empty; it holds <name>/<version>/manifest.json")
    return names


def find_versions(model: Path) -> list[int]:
    """The versions in a model's folder, rising.

    Raises:
        RepositoryError: there is none, one is no positive integer, or the folder cannot be read, or is gone.
    """
    versions = []
    for folder in _folders(model):
        if not (folder.name.isascii() and folder.name.isdigit()) or folder.name.startswith("0"):
            raise RepositoryError(f"{folder}: a version folder is named by a positive integer, e.g. 1")
        versions.append(int(folder.name))
    if not versions:
        raise RepositoryError(f"{model}: the model has no version folder")
    return sorted(versions)


@cache
def _may_be_a_model(folder: Path) -> bool:
    if re.fullmatch(manifests.NAME_PATTERN, folder.name):
        return True
    _log.warning("%s is left out: no model can have that name", folder)
    return False


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(entry for entry in parent.iterdir() if not entry.name.startswith(".") and _is_folder(entry))
    except OSError as error:
        raise RepositoryError(f"{parent}: cannot be read: {error.strerror}") from error


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # not what is_dir takes for a no, but e.g. a network's file system that is away
        raise RepositoryError(f"{path}: cannot be read: {error.strerror}") from error


def is_gone(folder: Path) -> bool:
    """Whether there is no such folder; where that cannot be told, it is taken to be there."""
    try:
        folder.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def fingerprint(folder: Path) -> str:
    """Changes whenever one of the two files does; a file that is missing is a change too."""
    parts = []
    for name in (manifests.FILE_NAME, backend.FILE_NAME):
        with suppress(OSError):
            state = (folder / name).stat()
            parts.append(f"{name} {state.st_ino} {state.st_size} {state.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
