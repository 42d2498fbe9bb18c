from __future__ import annotations

import dataclasses

import pytest
from typer.testing import CliRunner

from training import recovery
from training.__main__ import app
from training.recovery import Trial, recover


def test_an_orthonormal_dictionary_is_recovered() -> None:
    outcome = recover(Trial(n=64, m=64, k=3, orthonormal=True, steps=60))
    assert outcome.recovery is not None
    assert outcome.recovery.max_error < 1e-3
    assert outcome.recovery.support_precision == outcome.recovery.support_recall == 1
    assert outcome.recovery.mcc == pytest.approx(1, abs=1e-4)


def test_a_large_random_dictionary_is_recovered() -> None:
    outcome = recover(Trial(n=256, m=256, k=3, steps=60))
    assert outcome.recovery is not None
    assert outcome.recovery.mean_error <= 0.03
    assert outcome.recovery.support_precision > 0.99
    assert outcome.recovery.support_recall > 0.99


@pytest.mark.parametrize("size", [(64, 64, 3), (200, 250, 8)])
def test_too_large_a_step_is_told(size: tuple[int, int, int], caplog: pytest.LogCaptureFixture) -> None:
    n, m, k = size
    outcome = recover(Trial(n=n, m=m, k=k, rate=1.0, steps=60, examples=500))
    assert outcome.recovery is None
    assert "The step is too large: eta is 1 m/k" in outcome.message
    assert f"recovery of n={n}, m={m}, k={k}: eta of 1 m/k" in caplog.text


@pytest.mark.parametrize(
    ("trial", "error"),
    [
        (Trial(n=64, m=64, k=3), 0.14),
        (Trial(n=64, m=64, k=3, coder="k_sparse", rate=3e-3, steps=400, examples=200), 0.2),
        (Trial(n=64, m=64, k=3, coder="scikit_learn", steps=20, examples=500), 0.3),
    ],
    ids=lambda value: value.coder if isinstance(value, Trial) else "",
)
def test_every_coder_comes_nearer(trial: Trial, error: float) -> None:
    outcome = recover(trial)
    assert outcome.recovery is not None
    assert outcome.recovery.mean_error < error


def test_the_command_prints_a_line_for_each_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Trial(n=16, m=16, k=1, orthonormal=True, steps=25, examples=100)
    monkeypatch.setattr(recovery, "TRIALS", (small, dataclasses.replace(small, n=17, orthonormal=False, rate=3.0)))
    result = CliRunner().invoke(app, ["recover"])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].startswith("coder")
    assert ["diverges" in line for line in lines if line.startswith("neural")] == [False, True]
    assert "The step is too large: eta is 3 m/k" in result.output
