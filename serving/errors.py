"""Everything that can go wrong, as one tree.

    ServingError
    ├── StartError                 the server does not start (or a model does not load); the process exits with 1
    │   ├── ManifestError          manifest.json is missing, unreadable or breaks the contract
    │   ├── ModelError             model.onnx is missing, corrupt, or not what its manifest says
    │   ├── RepositoryError        no folder, no model, or a folder in the wrong place
    │   ├── ProviderError          the execution provider asked for is not usable
    │   ├── SecurityError          certificates, keys or tokens are missing or cannot be used
    │   ├── MissingExtraError      something that is asked for is not installed
    │   ├── PortError              a port is taken or not ours to bind
    │   └── ProcessError           one of several processes cannot be kept running
    └── RequestError               one request fails, the server goes on
        ├── InvalidInputError      the input is at fault; the message says what was expected and what came
        │   └── InvalidPictureError  bytes that are no whole picture of a known format within the pixel limit
        ├── NotFoundError          no such model or version, and the message names the known ones; no such shared memory
        ├── AlreadyExistsError     a name is taken
        ├── UnauthenticatedError   no token, or none that is known
        ├── ForbiddenError         the server's operator does not allow this to callers
        ├── UnsupportedError       the protocol has it, this server has not
        ├── LoadError              a model that was to be loaded is broken; what was served before still is
        ├── OverloadedError        something bounded is full: try again later, elsewhere
        │   ├── QueueFullError        the requests that wait for a model
        │   ├── TooManyRequestsError  the requests under way in the server
        │   ├── TooManyStreamsError   the open streams
        │   └── TooManyRegionsError   the registered regions of shared memory
        ├── AnswerTooLargeError    the answer is larger than a message may be
        ├── DeadlineError          the caller's deadline passed before the answer was there
        ├── CancelledError         the caller went away
        ├── UnavailableError       models are still loading, or the server is stopping
        └── InferenceError         the model's run itself failed; the cause is logged, not told

How a request error meets gRPC is one table in ``servicers/status.py``.
"""

from typing import ClassVar

# The reason of an error that is none of these.
INTERNAL = "internal"

_LONGEST_QUOTE = 80


class ServingError(Exception):
    """The root: an error of ours, with a message meant for people."""


class StartError(ServingError):
    """The server cannot start."""


class ManifestError(StartError):
    """``manifest.json`` is missing, unreadable or breaks the contract."""


class ModelError(StartError):
    """``model.onnx`` is missing, corrupt, or not what its manifest says."""


class RepositoryError(StartError):
    """The model repository as a whole cannot be served."""


class ProviderError(StartError):
    """The execution provider asked for is not usable on this machine."""


class SecurityError(StartError):
    """Certificates, keys or tokens are missing or cannot be used: the server would be half protected."""


class MissingExtraError(StartError):
    """Something that is asked for needs a package that is not installed."""


class PortError(StartError):
    """A port cannot be bound."""


class ProcessError(StartError):
    """One of several processes cannot be kept running."""


class RequestError(ServingError):
    """One request cannot be answered; others are not affected.

    Attributes:
        reason: under which it is counted.
    """

    reason: ClassVar[str] = INTERNAL


class InvalidInputError(RequestError):
    """The request's input is at fault."""

    reason = "invalid_input"


class InvalidPictureError(InvalidInputError):
    """The bytes are no whole picture of a known format within the pixel limit."""

    reason = "invalid_picture"


class NotFoundError(RequestError):
    """No such model, version or shared memory."""

    reason = "not_found"


class AlreadyExistsError(RequestError):
    """A name is taken."""

    reason = "already_exists"


class UnauthenticatedError(RequestError):
    """No token came, or none that is known."""

    reason = "unauthenticated"


class ForbiddenError(RequestError):
    """The server's operator does not allow this."""

    reason = "forbidden"


class UnsupportedError(RequestError):
    """The protocol has it, and this server has not."""

    reason = "unsupported"


class LoadError(RequestError):
    """A model that was to be loaded is broken."""

    reason = "load_failed"


class OverloadedError(RequestError):
    """Something that is bounded is full."""

    reason = "overloaded"


class QueueFullError(OverloadedError):
    """As many requests wait for a model as may."""

    reason = "queue_full"


class TooManyRequestsError(OverloadedError):
    """As many requests are under way in the whole server as may."""

    reason = "requests_in_flight"


class TooManyStreamsError(OverloadedError):
    """As many streams are open as may be."""

    reason = "open_streams"


class TooManyRegionsError(OverloadedError):
    """As many regions of shared memory are registered as may be."""

    reason = "shared_memory_regions"


class AnswerTooLargeError(RequestError):
    """The answer is larger than a message may be."""

    reason = "answer_too_large"


class DeadlineError(RequestError):
    """The caller's deadline has passed."""

    reason = "deadline"


class CancelledError(RequestError):
    """The caller went away."""

    reason = "cancelled"


class UnavailableError(RequestError):
    """The server is not ready, or is stopping."""

    reason = "unavailable"


class InferenceError(RequestError):
    """The model's run failed; ``__cause__`` holds why."""

    reason = "inference_failed"


def quote(text: str) -> str:
    """Quotes what a client sent, so that it fits on one line of a log: escaped and cut to a sane length."""
    return repr(text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "...")
