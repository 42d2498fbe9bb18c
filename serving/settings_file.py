"""The settings file, and where a setting came from."""

import difflib
import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic_settings import PydanticBaseSettingsSource

from serving.errors import StartError

PREFIX = "SPARSEWALK_"
# They say where settings come from or go to; in the file they would come too late.
NOT_IN_FILE = {"config", "print_settings"}


class SettingsFile(PydanticBaseSettingsSource):
    """The settings file, if flags or environment name one."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        """Not asked: the file is read as a whole."""
        raise NotImplementedError

    def __call__(self) -> dict[str, Any]:
        """Its values by field.

        Raises:
            StartError: it cannot be read, is no TOML, or has a key that is no setting.
        """
        path = self.current_state.get("config")
        if not path:
            return {}
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise StartError(f"settings: --config: {path}: cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise StartError(f"settings: --config: {path}: not TOML: {error}") from None
        known = set(self.settings_cls.model_fields) - NOT_IN_FILE
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key.replace("-", "_"), known, n=1)
                hint = f"; did you mean {near[0]}?" if near else "; --help lists those there are"
                raise StartError(f"settings: {path}: there is no setting {key!r}{hint}")
        return values


def flag_of(name: str) -> str:
    """The flag of a setting."""
    return f"--{name.replace('_', '-')}"


def origin_of(name: str, arguments: list[str]) -> str:
    """Where a value came from, by the order in which it is looked for."""
    flag = flag_of(name)
    if any(argument == flag or argument.startswith(f"{flag}=") for argument in arguments):
        return flag
    if any(variable.upper() == f"{PREFIX}{name.upper()}" for variable in os.environ):
        return f"{PREFIX}{name.upper()}"
    return f"{name} in the settings file"
