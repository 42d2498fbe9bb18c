"""Signals in a process of its own, since they are the process's."""

import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import signal, sys, threading
from serving import signals
lock = threading.Lock()
seen = []
done = threading.Event()
def act(number):
    with lock:  # held by the main thread: a handler that ran there would wait for itself
        seen.append(number.name)
    print(number.name, flush=True)
    if len(seen) == 2:
        done.set()
signals.watch((signal.SIGTERM, signal.SIGINT), act)
signal.signal(signal.SIGUSR1, lambda *_: None)
with lock:
    print("ready", flush=True)
    sys.stdin.readline()
done.wait()
"""


# The signal comes with the first of the server's own imports.
EARLY = """
import os, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "serving.errors":
            os.kill(os.getpid(), int(sys.argv[1]))
sys.meta_path.insert(0, Finder())
from serving.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_stopped_before_it_has_begun_ends(number: signal.Signals) -> None:
    """Without a handler of its own it would die of SIGTERM here, and as process 1 of a container live on."""
    done = subprocess.run(
        [sys.executable, "-c", EARLY, str(int(number))], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_signals_are_acted_on_whatever_the_main_thread_holds_and_others_are_left_alone() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGUSR1)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.1)  # it waits for the lock
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "SIGTERM\n"
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "SIGINT\n"
            assert process.wait(timeout=10) == 0
        finally:
            process.kill()
