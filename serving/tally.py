"""What one model version has done since it was loaded: the sums that the statistics calls of the protocols tell.

Prometheus has the same numbers as histograms; here they are exact sums, in the units of a request.
"""

import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace

from serving.timings import Timings

PHASES = Timings._fields

_MANY = 256


@dataclass(slots=True)
class Tally:
    """How often something happened, and how many seconds it took in all."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Counts one more."""
        self.count += 1
        self.seconds += seconds

    def merge(self, other: "Tally") -> None:
        """Adds what another process counted."""
        self.count += other.count
        self.seconds += other.seconds


@dataclass(slots=True)
class Snapshot:
    """The sums at one moment.

    Attributes:
        phases: answered requests, by phase.
        failures: requests that were refused or failed.
        rows: that went through the model, padding not counted.
        batches: runs, by their rows.
        last_answer: when, in seconds since 1970; 0 when there was none.
    """

    phases: dict[str, Tally] = field(default_factory=lambda: {phase: Tally() for phase in PHASES})
    failures: Tally = field(default_factory=Tally)
    rows: int = 0
    batches: dict[int, Tally] = field(default_factory=dict)
    last_answer: float = 0.0

    def merge(self, other: "Snapshot") -> None:
        """Adds what another process did."""
        for phase, tally in other.phases.items():
            self.phases[phase].merge(tally)
        self.failures.merge(other.failures)
        self.rows += other.rows
        for rows, tally in other.batches.items():
            self.batches.setdefault(rows, Tally()).merge(tally)
        self.last_answer = max(self.last_answer, other.last_answer)


class Statistics:
    """Adds up what happens, from any thread; many requests at a time, as ``bins.py`` does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums = Snapshot()
        self._answered: deque[Timings] = deque()
        self._last_answer = 0.0

    def answered(self, timings: Timings) -> None:
        """Counts one answered request."""
        self._answered.append(timings)
        self._last_answer = time.time()
        if len(self._answered) >= _MANY:
            with self._lock:
                self._add_up()

    def failed(self, seconds: float) -> None:
        """Counts one request that was refused or failed after so many seconds."""
        with self._lock:
            self._sums.failures.add(seconds)

    def ran(self, rows: int, seconds: float) -> None:
        """Counts one run of the model."""
        with self._lock:
            self._sums.rows += rows
            tally = self._sums.batches.get(rows)
            if tally is None:
                tally = self._sums.batches[rows] = Tally()
            tally.add(seconds)

    def snapshot(self) -> Snapshot:
        """A copy that does not change any more."""
        with self._lock:
            self._add_up()
            sums = self._sums
            return Snapshot(
                phases={phase: replace(tally) for phase, tally in sums.phases.items()},
                failures=replace(sums.failures),
                rows=sums.rows,
                batches={rows: replace(tally) for rows, tally in sorted(sums.batches.items())},
                last_answer=self._last_answer,
            )

    def _add_up(self) -> None:
        """Counts the requests answered since the last time. The lock is held."""
        found = [self._answered.popleft() for _ in range(len(self._answered))]
        for tally, seconds in zip(self._sums.phases.values(), zip(*found, strict=True), strict=False):
            tally.count += len(seconds)
            tally.seconds += sum(seconds)
