"""Signals in a process of its own, since they are the process's."""

import signal
import subprocess
import sys
import time

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
