"""README.md's commands and the Makefile's targets find models in a fresh clone, where nothing has been exported yet."""

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from serving.settings import Settings
from serving.video.settings import Settings as VideoSettings

ROOT = Path(__file__).parents[2]
RELEASED = Path("deploy/models")
READERS: dict[str, type[Settings] | type[VideoSettings]] = {"serving": Settings, "serving.video": VideoSettings}


def blocks() -> list[str]:
    """The README's commands, block by block, lines that go on put together."""
    found = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return [block.replace("\\\n", " ") for block in found]


@pytest.mark.parametrize("module", READERS)
def test_commands_of_the_readme_name_a_repository_that_is_there(
    module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert (ROOT / RELEASED).is_dir()
    monkeypatch.chdir(tmp_path)
    tried = 0
    for block in blocks():
        with monkeypatch.context() as shell:
            for line in block.splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["export"]:
                    shell.setenv(*words[1].split("=", 1))
                if words[:3] != [".venv/bin/python", "-m", module] or "--help" in words:
                    continue
                *arguments, before_last, last = words[3:]
                written = before_last == ">"
                settings: Any = READERS[module].from_command_line(arguments if written else words[3:])
                if written:
                    Path(last).write_text(settings.to_toml())
                assert settings.model_repository == RELEASED or settings.target, line
                tried += 1
    assert tried > 4


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder in which make knows the targets and takes the environment for made."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def recipe(clone: Path, target: str, *assignments: str) -> str:
    command = ["make", "--dry-run", "--assume-old=.venv/.ready", target, *assignments]
    # Without what the make that runs these tests was given.
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MODELS"))}
    return subprocess.run(command, cwd=clone, env=outside, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("target", ["serve", "bench", "video", "bench-video", "soak-video"])
def test_targets_take_models_of_ones_own_and_else_the_released_ones(target: str, clone: Path) -> None:
    def models(*assignments: str) -> str:
        (found,) = re.findall(r"--model(?:s|-repository) (\S+)", recipe(clone, target, *assignments))
        return str(found)

    assert models() == "deploy/models"
    (clone / "models").mkdir()
    assert models() == "deploy/models"  # as an export that failed leaves it
    (clone / "models" / "digits").mkdir()
    assert models() == "models"
    assert models("MODELS=mistyped") == "mistyped"
