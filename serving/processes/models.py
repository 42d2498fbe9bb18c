"""The models of one process, as the supervisor changes them: the two steps of a change, called from outside."""

from collections.abc import Callable
from typing import Any

from serving.changes import Override
from serving.repository import Held, ModelRepository, Plan


class ChangedFromOutside:
    """Answers what ``fleet.Fleet`` asks.

    Args:
        repository: the models; waited for when it is not there yet.
        commit: makes a prepared change known to callers.
        unload: likewise for the end of a model.
    """

    def __init__(
        self,
        repository: ModelRepository,
        commit: Callable[[Plan], None] | None = None,
        unload: Callable[[str, str], None] | None = None,
    ) -> None:
        self._repository = repository
        self._commit = commit or repository.commit
        self._unload = unload or repository.unload
        self._plan: Plan | None = None

    def handlers(self) -> dict[str, Callable[..., Any]]:
        """For the link to the supervisor."""
        return {
            "found": self._repository.found,
            "served": self._repository.served,
            "held": self._repository.held,
            "prepare": self._prepare,
            "commit": self._finish,
            "discard": self._discard,
            "unload": self._unload,
        }

    def _prepare(self, name: str, override: Override | None) -> tuple[Held, list[str]]:
        self._plan = self._repository.prepare(name, override)
        return self._plan.outcome, self._plan.complaints

    def _finish(self) -> None:
        plan, self._plan = self._plan, None
        if plan is not None:
            self._commit(plan)

    def _discard(self) -> None:
        plan, self._plan = self._plan, None
        if plan is not None:
            self._repository.discard(plan)
