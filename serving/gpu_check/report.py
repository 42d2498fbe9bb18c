"""What was tried, for programs and for people."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from serving.gpu_check.trials import Trial

NAME = "gpu_check"


@dataclass(frozen=True, slots=True)
class Report:
    """One run of the check.

    Attributes:
        device: what was tried: the GPUs by name, or the words for a dry run.
        dry: whether no GPU took part.
        versions: of what is installed.
        trials: in the order in which they were made.
    """

    device: str
    dry: bool
    versions: dict[str, str]
    trials: list[Trial]

    @property
    def passed(self) -> bool:
        """Whether every trial did; not when there was none."""
        return bool(self.trials) and all(trial.passed for trial in self.trials)

    def to_json(self) -> str:
        """All of it."""
        told = asdict(self) | {"passed": self.passed}
        for trial, entry in zip(self.trials, told["trials"], strict=True):
            entry["passed"] = trial.passed
        return json.dumps(told, indent=2) + "\n"

    def to_text(self) -> str:
        """A table, and what went wrong."""
        lines = [
            f"Device: {self.device}",
            "Versions: " + ", ".join(f"{name} {version}" for name, version in self.versions.items()),
        ]
        if self.dry:
            lines.append("Dry run on the CPU: this proves nothing about a GPU.")
        head = f"{'model':32} {'way':14} {'rows':>5} {'median ms':>10} {'p99 ms':>9} {'rows/s':>10} {'difference':>11}"
        lines += ["", head, "-" * len(head)]
        for trial in self.trials:
            lines += [
                f"{trial.model:32} {trial.way:14} {timing.rows:5} {timing.median_seconds * 1e3:10.3f}"
                f" {timing.p99_seconds * 1e3:9.3f} {timing.rows_per_second:10.0f} {timing.difference:11.2e}"
                for timing in trial.timings
            ]
        lines += ["", "Memory on the device, MiB, and what it grew by:"]
        lines += [f"{trial.model:32} {trial.way:14} {_memory(trial)}" for trial in self.trials]
        failed = [trial for trial in self.trials if not trial.passed]
        lines += ["", f"{len(self.trials) - len(failed)} of {len(self.trials)} passed."]
        for trial in failed:
            worst = max((timing.difference for timing in trial.timings), default=0.0)
            why = trial.error or f"differs from the CPU by {worst:.2e}, more than {trial.tolerance:g}"
            lines.append(f"FAILED {trial.model} {trial.way}: {why}")
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> list[Path]:
        """Writes ``gpu_check.json`` and ``gpu_check.txt``, each whole or not at all; returns their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for suffix, text in ((".json", self.to_json()), (".txt", self.to_text())):
            path = folder / f"{NAME}{suffix}"
            aside = folder / f".{NAME}{suffix}.{os.getpid()}"
            aside.write_text(text)
            aside.rename(path)
            paths.append(path)
        return paths


def _memory(trial: Trial) -> str:
    told, before = [], None
    for moment, used in trial.memory_bytes.items():
        if used is None:
            return "not known"
        grown = "" if before is None else f" ({(used - before) / 2**20:+.0f})"
        told.append(f"{moment} {used / 2**20:.0f}{grown}")
        before = used
    return ", ".join(told)
