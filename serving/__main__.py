"""``python -m serving``: runs the server.

Exit codes: 0 stopped by a signal (or settings printed), 1 could not start, 2 settings not allowed.
"""

import logging
import os
import signal
import sys


def main() -> int:
    """Reads the settings and serves; errors that are expected end in one line on stderr."""
    # Before the imports, which take a second: process 1 of a container gets no signal that nobody handles, and would
    # go on until it is killed. The server puts its own handlers in their place.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    # gRPC's own complaints on stderr would hide ours. Read when gRPC is imported, hence the imports below.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from serving.errors import StartError
    from serving.settings import Settings

    try:
        settings = Settings.from_command_line()
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if settings.print_settings:
        print(settings.to_toml(), end="")
        return 0
    from serving import logs

    logs.configure(settings.log_level, settings.log_format)
    log = logging.getLogger("serving")
    log.info("settings", extra={"settings": settings.values()})
    if settings.exposure:
        log.warning(settings.exposure)
    try:
        if settings.workers > 1 or settings.engine_process:
            from serving.processes import supervisor

            supervisor.run(settings)
        else:
            from serving import server

            server.run(settings)
    except StartError as error:
        if settings.log_format == "json":
            log.error("%s", error)
        else:
            print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
