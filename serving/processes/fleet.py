"""One change in several processes: in all of them, or in none.

Every process prepares the change, which costs time and may fail, while callers get what they got before. Only when all
have prepared the very same does any of them let callers see it; a call that is answered OK is true wherever the next
one ends up. A process that dies on the way is not waited for: who takes its place serves what the others do.
"""

from collections.abc import Callable, Sequence
from typing import Any

from serving.changes import Override
from serving.errors import LoadError, UnavailableError
from serving.processes.link import Link, LinkLostError
from serving.repository import Held
from serving.shelf import STARTING_OR_STOPPING


class Fleet:
    """The processes that have models; see ``changes.Models``.

    Args:
        links: of those that serve now.
    """

    def __init__(self, links: Callable[[], list[Link]]) -> None:
        self._links = links
        self._known: dict[str, Held] | None = None

    def found(self) -> list[str]:
        """See ``changes.Models``."""
        names: list[str] = self._ask_one("found")
        return names

    def served(self) -> list[str]:
        """See ``changes.Models``."""
        names: list[str] = self._ask_one("served")
        return names

    def held(self) -> dict[str, Held] | None:
        """What is served, or was when there was last somebody to ask; None before that."""
        if self._links():
            self._known = self._ask_one("held")
        return self._known

    def reload(self, name: str, override: Override | None = None) -> None:
        """See ``changes.Models``."""
        prepared, failures = _sort(_ask_all(self._links(), "prepare", name, override))
        if not prepared and not failures:
            raise _nobody()
        outcomes = list(prepared.values())
        if failures or any(outcome != outcomes[0] for outcome in outcomes):
            _ask_all(list(prepared), "discard")
            if prepared:
                raise LoadError(
                    f"{name}: the server's processes did not come to the same; is its folder being written?"
                    f" What was served before still is. {'; '.join(sorted(set(map(str, failures))))}".strip()
                )
            raise failures[0]
        _ask_all(list(prepared), "commit")
        self.held()
        _, complaints = outcomes[0]
        if complaints:
            raise LoadError("; ".join(complaints))

    def unload(self, name: str, why: str) -> None:
        """See ``changes.Models``."""
        _ask_all(self._links(), "unload", name, why)
        self.held()

    def _ask_one(self, what: str) -> Any:
        for link in self._links():
            try:
                return link.ask(what)
            except LinkLostError:
                continue
        raise _nobody()


def _nobody() -> UnavailableError:
    return UnavailableError(f"the models are not ready: {STARTING_OR_STOPPING}")


def _ask_all(links: Sequence[Link], what: str, *arguments: Any) -> dict[Link, Any]:
    """Asks all at once; what each answered, or raised."""
    calls = {link: link.call(what, *arguments) for link in links}
    return {link: call.exception() or call.result() for link, call in calls.items()}


def _sort(answers: dict[Link, Any]) -> tuple[dict[Link, Any], list[BaseException]]:
    """What was answered, and what was raised; those that are gone are left out."""
    alive = {link: answer for link, answer in answers.items() if not isinstance(answer, LinkLostError)}
    failures = [answer for answer in alive.values() if isinstance(answer, BaseException)]
    return {link: answer for link, answer in alive.items() if not isinstance(answer, BaseException)}, failures
