"""``python -m serving.processes.child ROLE NUMBER DESCRIPTOR``: one of several processes, started by the supervisor.

The number is for people who look at the list of processes or read the log. The process takes its orders from the
supervisor over the link on the descriptor, and drains and ends when that is gone. SIGTERM means the same as the
supervisor's order to stop, however often it comes; the supervisor then fills the seat anew.
"""

import logging
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from serving import logs, signals
from serving.errors import StartError
from serving.processes.assignment import Assignment, Role
from serving.processes.engine import EngineMember
from serving.processes.front import FrontMember
from serving.processes.link import Link, LinkLostError
from serving.processes.member import Member
from serving.processes.worker import WorkerMember

_MEMBERS: dict[Role, Callable[[], Member]] = {
    Role.WORKER: WorkerMember,
    Role.ENGINE: EngineMember,
    Role.FRONT: FrontMember,
}


def main() -> int:
    """Serves until it is told to stop; 0 then, 1 when it cannot start."""
    role, number, descriptor = sys.argv[1:]
    member = _MEMBERS[Role(role)]()
    signals.watch((signal.SIGTERM, signal.SIGINT), lambda _: member.stop())
    supervisor = Link(
        socket.socket(fileno=int(descriptor)), "the supervisor", handlers=member.handlers(), on_lost=member.stop
    )
    supervisor.start()
    try:
        assignment: Assignment = supervisor.ask("assignment")
        settings = assignment.settings
        logs.configure(settings.log_level, settings.log_format)
        _sign_records(f"{role}-{number}")
        member.serve(supervisor, assignment)
    except StartError as error:
        supervisor.tell("failed", error)
        return 1
    except LinkLostError:
        # The supervisor is gone, and with it whoever could be told.
        return 1
    return 0


def _sign_records(seat: str) -> None:
    """Each line that is logged tells which process it is from."""
    make = logging.getLogRecordFactory()

    def make_signed(*arguments: Any, **options: Any) -> logging.LogRecord:
        record = make(*arguments, **options)
        record.seat = seat
        return record

    logging.setLogRecordFactory(make_signed)


if __name__ == "__main__":
    sys.exit(main())
