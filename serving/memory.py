"""Memory of the process."""

import ctypes


def give_back() -> None:
    """Gives back to the system what has been freed.

    glibc keeps freed blocks below others that are in use, and a session of ONNX Runtime leaves many: with each replaced
    version the process would grow, to three times its size. It takes some milliseconds. Other C libraries have no such
    call, and nothing is done.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
