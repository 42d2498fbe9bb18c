"""What the server writes to stderr: lines for people, or one JSON object a line.

Modules log with the standard library, whose records other libraries write too; JSON is the business of
python-json-logger, a formatter for just that, which turns whatever a record holds (exceptions, paths, numbers that JSON
lacks) into fields. What is given as ``extra`` are fields of their own: ``name=value`` at the end of a line for people.

What clients send is not logged: no pictures, no values, no tokens, no addresses. Names and numbers that they got wrong
are, cut short, as part of the refusal that they were told.
"""

import logging
import sys
from typing import Literal

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

_RESERVED = frozenset(RESERVED_ATTRS)


class TextFormatter(logging.Formatter):
    """Lines for people: the usual, then the fields."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the library's name
        """The line before a traceback."""
        words = [super().formatMessage(record)]
        for name, value in vars(record).items():
            if isinstance(value, dict):
                words += [f"{key}={each}" for key, each in value.items()]
            elif name not in _RESERVED:
                words.append(f"{name}={value}")
        return " ".join(words)


def configure(level: str, form: Literal["text", "json"]) -> None:
    """Sends every record from ``level`` on to stderr.

    Args:
        level: debug, info, warning or error.
        form: ``text`` or ``json``.
    """
    handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        handler.setFormatter(
            JsonFormatter(
                ["levelname", "name", "message"],
                rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception"},
                timestamp="time",
            )
        )
    else:
        handler.setFormatter(TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
