"""``python -m serving.video``: runs the job; ``--help`` tells flags and exit codes."""

import logging
import os
import signal
import sys
import threading

from serving import signals


def main() -> int:
    """Reads the settings and runs; one line on stdout for each input that was segmented, on stderr for the others."""
    # Before the imports, which take seconds.
    stop = threading.Event()
    signals.watch((signal.SIGTERM, signal.SIGINT), lambda _: stop.set())
    # gRPC's own complaints on stderr would hide ours. Read when gRPC is imported, hence the imports below.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from serving.errors import MissingExtraError, StartError
    from serving.video.errors import ExitCode, JobError
    from serving.video.settings import Settings

    try:
        settings = Settings.from_command_line()
        logging.basicConfig(
            level=settings.log_level.upper(),
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
            stream=sys.stderr,
        )
        try:
            from serving.video import launch
            from serving.video.job import exit_code
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                f"videos need an extra: pip install 'sparsewalk[serving,video]'. Received: {error}"
            ) from error
        outcomes = launch.run(settings, stop)
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.USAGE
    except JobError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    for outcome in outcomes:
        good = outcome.code in (ExitCode.DONE, ExitCode.PARTIAL)
        print(outcome.message if good else f"error: {outcome.message}", file=sys.stdout if good else sys.stderr)
        for text, count in outcome.notes:
            print(f"{outcome.name}: {text}" + (f" ({count} times)" if count > 1 else ""), file=sys.stderr)
    return exit_code(outcomes)


if __name__ == "__main__":
    sys.exit(main())
