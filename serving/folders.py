"""What lies in the repository's folder: names, versions, and whether their files have changed."""

import hashlib
from contextlib import suppress
from pathlib import Path

from serving import backend
from serving import manifest as manifests
from serving.errors import RepositoryError


def find_models(root: Path) -> list[str]:
    """The names of the models under a repository root.

    Raises:
        RepositoryError: the root is no folder, or holds no model.
    """
    if not root.is_dir():
        raise RepositoryError(
            f"{root}: the model repository is no folder; --model-repository names one, and the released models lie in"
            " deploy/models of Sparsewalk's source"
        )
    names = [folder.name for folder in _folders(root)]
    if not names:
        raise RepositoryError(f"{root}: the model repository is empty; it holds <name>/<version>/manifest.json")
    return names


def find_versions(model: Path) -> list[int]:
    """The versions in a model's folder, rising.

    Raises:
        RepositoryError: there is none, or one is no positive integer.
    """
    versions = []
    for folder in _folders(model):
        if not (folder.name.isascii() and folder.name.isdigit()) or folder.name.startswith("0"):
            raise RepositoryError(f"{folder}: a version folder is named by a positive integer, e.g. 1")
        versions.append(int(folder.name))
    if not versions:
        raise RepositoryError(f"{model}: the model has no version folder")
    return sorted(versions)


def _folders(parent: Path) -> list[Path]:
    return sorted(entry for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def fingerprint(folder: Path) -> str:
    """Changes whenever one of the two files does; a file that is missing is a change too."""
    parts = []
    for name in (manifests.FILE_NAME, backend.FILE_NAME):
        with suppress(OSError):
            state = (folder / name).stat()
            parts.append(f"{name} {state.st_ino} {state.st_size} {state.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
