"""A worker: the whole service, on a port that it shares with others."""

from collections.abc import Callable
from contextlib import suppress

from serving import assembly
from serving.metrics import Metrics
from serving.placement import Placement
from serving.processes.assignment import Assignment
from serving.processes.link import Link, LinkLostError
from serving.processes.member import Member, conduct_by, gather_by
from serving.processes.models import ChangedFromOutside
from serving.server import Membership, Repository, Server, drain
from serving.shelf import Shelf
from serving.tracing import Tracer


class WorkerMember(Member):
    """See the head of the module."""

    def serve(self, supervisor: Link, assignment: Assignment) -> None:
        """See ``Member.serve``."""

        def open_repository(
            metrics: Metrics, on_change: Callable[[str, bool], None], tracer: Tracer | None
        ) -> tuple[Shelf, Repository]:
            repository = assembly.make_repository(
                assignment.settings,
                metrics,
                on_change=on_change,
                conduct=conduct_by(supervisor),
                gather=gather_by(supervisor),
                tracer=tracer,
                placement=Placement(assignment.settings.request_core),
            )
            supervisor.handle(ChangedFromOutside(repository).handlers())
            self.metrics, self.shelf = metrics, repository
            return repository, repository

        serve_as_member(self, supervisor, assignment, open_repository)


def serve_as_member(
    member: Member,
    supervisor: Link,
    assignment: Assignment,
    open_repository: Callable[[Metrics, Callable[[str, bool], None], Tracer | None], tuple[Shelf, Repository]],
) -> None:
    """Runs a server as one of several; ends as ``Member.serve`` does.

    Args:
        member: whose events are looked at.
        supervisor: is told when the server has loaded, when it serves, and what it has measured when it ends.
        assignment: what to be.
        open_repository: where the models come from.
    """

    def ready() -> bool:
        return bool(supervisor.ask("loaded"))

    server = Server(
        assignment.settings,
        Membership(open_repository, gate=ready, held=assignment.held, listens_first=assignment.first),
    )
    try:
        server.start(member.stopping)
        supervisor.tell("serving")
        member.stopping.wait()
    finally:
        drain(server, assignment.settings.grace_seconds, member.hurried)
        with suppress(LinkLostError):
            supervisor.ask("farewell", member.families())
