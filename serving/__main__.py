"""``python -m serving``: runs the server.

Exit codes: 0 stopped by a signal, 1 could not start, 2 settings not allowed.
"""

import logging
import os
import sys


def main() -> int:
    """Reads the settings and serves; errors that are expected end in one line on stderr."""
    # gRPC's own complaints on stderr would hide ours. Read when gRPC is imported, hence the imports below.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from serving.errors import StartError
    from serving.settings import Settings

    try:
        settings = Settings.from_command_line()
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    from serving import server

    try:
        server.run(settings)
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
