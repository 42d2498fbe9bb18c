"""What can end the job, or one input of it, and the exit code that says so.

    JobError
    ├── InputError       3  the input, the model or the output is at fault: running again does not help
    ├── FaultError       5  a passing fault (service gone, disk full, stream unreachable): run again with --resume
    └── StoppedError   130  a signal: run again with --resume

A run that gave whole results for what was readable, but could not read everything, ends with 4.
"""

import errno
import os
from enum import IntEnum
from typing import TYPE_CHECKING

from serving.errors import ServingError

if TYPE_CHECKING:  # without the extra it is not there, and --help needs no more than this
    import av

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ExitCode(IntEnum):
    """How the process ends."""

    DONE = 0
    BUG = 1
    USAGE = 2
    BAD_INPUT = 3
    PARTIAL = 4
    FAULT = 5
    STOPPED = 130


class JobError(ServingError):
    """The root; ``code`` is the exit code it leads to."""

    code = ExitCode.BUG


class InputError(JobError):
    """The input, the model or the output is at fault."""

    code = ExitCode.BAD_INPUT


class FaultError(JobError):
    """A passing fault."""

    code = ExitCode.FAULT


class StoppedError(JobError):
    """A signal asked for the end."""

    code = ExitCode.STOPPED


def is_full(error: "OSError | av.FFmpegError") -> bool:
    """Whether a write failed because the disk is full."""
    return error.errno is not None and abs(error.errno) in _FULL


def writing(error: OSError, where: object) -> JobError:
    """What a failed write is: a full disk passes, a place that cannot be written does not."""
    told = error.strerror or str(error)
    if is_full(error):
        return FaultError(f"{where}: the disk is full ({told}); make room and run again with --resume")
    return InputError(f"{where}: cannot be written: {told}")


def as_os_error(error: "OSError | av.FFmpegError") -> OSError:
    """FFmpeg's errors in writing are the system's."""
    return error if isinstance(error, OSError) else OSError(error.errno, os.strerror(abs(error.errno or 0)))
