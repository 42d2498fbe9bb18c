import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.errors import StartError
from serving.settings import Settings


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"SPARSEWALK_{name.upper()}", raising=False)


def test_defaults_are_those_of_the_documentation() -> None:
    settings = Settings.from_command_line([])
    assert (settings.grpc_port, settings.metrics_port, str(settings.model_repository)) == (8001, 8002, "models")


def test_every_field_is_an_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSEWALK_GRPC_PORT", "9000")
    monkeypatch.setenv("SPARSEWALK_PROVIDER", "cpu")
    settings = Settings.from_command_line([])
    assert (settings.grpc_port, settings.provider) == (9000, "cpu")


def test_a_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSEWALK_GRPC_PORT", "9000")
    assert Settings.from_command_line(["--grpc-port", "9001"]).grpc_port == 9001


def test_other_environment_variables_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSEWALK_DATA", "elsewhere")
    Settings.from_command_line([])


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--grpc-port", "65536"], "--grpc-port: Input should be less than or equal to 65535. Received: '65536'"),
        (["--max-batch-size", "0"], "--max-batch-size: Input should be greater than 0. Received: '0'"),
        (["--provider", "tpu"], "--provider: Input should be 'auto', 'cuda', 'tensorrt' or 'cpu'. Received: 'tpu'"),
        (["--grace-seconds", "nan"], "--grace-seconds: Input should be a finite number. Received: 'nan'"),
    ],
)
def test_a_value_not_allowed_is_named(flags: list[str], complaint: str) -> None:
    with pytest.raises(StartError) as caught:
        Settings.from_command_line(flags)
    assert complaint in str(caught.value)


def test_an_unknown_flag_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        Settings.from_command_line(["--grpc-prot", "1"])
    assert caught.value.code == 2
    assert "--grpc-prot" in capsys.readouterr().err


def test_help_describes_every_field(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as caught:
        Settings.from_command_line(["--help"])
    assert caught.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')} " in words
        assert field.description
        assert field.description in words


class TestFile:
    @pytest.fixture
    def write(self, tmp_path: Path) -> Callable[[str], str]:
        def write_one(text: str) -> str:
            (tmp_path / "settings.toml").write_text(text)
            return str(tmp_path / "settings.toml")

        return write_one

    def test_flags_win_over_the_environment_that_over_the_file_and_that_over_the_defaults(
        self, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = write('grpc_port = 1\nmetrics_port = 1\nhost = "::1"\nallowed_batch_sizes = [1, 8]')
        monkeypatch.setenv("SPARSEWALK_GRPC_PORT", "2")
        monkeypatch.setenv("SPARSEWALK_METRICS_PORT", "2")
        settings = Settings.from_command_line(["--config", file, "--grpc-port", "3"])
        assert (settings.grpc_port, settings.metrics_port, settings.host) == (3, 2, "::1")
        assert settings.allowed_batch_sizes == (1, 8)
        assert settings.max_batch_size == 64

    def test_the_environment_may_name_it(self, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SPARSEWALK_CONFIG", write("grpc_port = 7"))
        assert Settings.from_command_line([]).grpc_port == 7

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("grpc-port = 1", "there is no setting 'grpc-port'; did you mean grpc_port?"),
            ("xyzzy = 1", "there is no setting 'xyzzy'; --help lists those there are"),
            ('config = "other.toml"', "there is no setting 'config'"),
            (
                "grpc_port = 1e9",
                "grpc_port in the settings file: Input should be less than or equal to 65535. Received",
            ),
            ('grpc_port = "many"', "grpc_port in the settings file: Input should be a valid integer"),
            ("grpc_port", "not TOML: Expected '=' after a key"),
        ],
    )
    def test_what_is_not_allowed_is_named(self, write: Callable[[str], str], text: str, complaint: str) -> None:
        with pytest.raises(StartError) as caught:
            Settings.from_command_line(["--config", write(text)])
        assert complaint in str(caught.value)

    def test_a_missing_one_is_named(self) -> None:
        with pytest.raises(StartError, match=r"^settings: --config: nowhere.toml: cannot be read: No such file"):
            Settings.from_command_line(["--config", "nowhere.toml"])

    def test_what_is_printed_is_a_file_that_says_the_same(self, write: Callable[[str], str]) -> None:
        flags = ["--allowed-batch-sizes", "1,8", "--model-repository", 'with "quotes"', "--grace-seconds", "1.5"]
        settings = Settings.from_command_line(flags)
        again = Settings.from_command_line(["--config", write(settings.to_toml())])
        assert again.values() == settings.values()


def test_lists_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.from_command_line(["--allowed-batch-sizes", "1,8,64"]).allowed_batch_sizes == (1, 8, 64)
    monkeypatch.setenv("SPARSEWALK_ALLOWED_BATCH_SIZES", "1, 4")
    assert Settings.from_command_line([]).allowed_batch_sizes == (1, 4)
    assert Settings.from_command_line(["--token-free", ""]).token_free == ()


def test_a_value_not_allowed_is_named_by_where_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSEWALK_GRPC_PORT", "tcp://10.0.0.1:8001")
    with pytest.raises(StartError, match=r"SPARSEWALK_GRPC_PORT: Input should be a valid integer.* 'tcp://10.0.0.1"):
        Settings.from_command_line([])


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--tls-certificate", "a"], "--tls-certificate needs --tls-key too"),
        (
            ["--provider", "cpu", "--cuda-graphs", "true", "--allowed-batch-sizes", "1,8"],
            "--cuda-graphs needs --provider auto or cuda. Received: cpu",
        ),
        (["--cuda-graphs", "true"], "--cuda-graphs needs --allowed-batch-sizes: a graph is captured for each of them"),
        (["--precision", "fp16"], "--precision fp16 needs --provider tensorrt. Received: auto"),
        (
            ["--precision", "tf32", "--provider", "tensorrt"],
            "--precision tf32 needs --provider auto or cuda. Received: tensorrt",
        ),
        (["--engine-cache", "a", "--provider", "cuda"], "--engine-cache needs --provider tensorrt. Received: cuda"),
        (["--tls-key", "a"], "--tls-key needs --tls-certificate too"),
        (["--tls-client-ca", "a"], "--tls-client-ca needs --tls-certificate too"),
        (["--metrics-tls", "true"], "--metrics-tls needs --tls-certificate too"),
        (["--trace-endpoint", "localhost:4317"], "--trace-endpoint: Input should be http://host:port or https://"),
        (["--trace-endpoint", "http://me:secret@host:1"], "without user and password. Received: 'http://...@host:1'"),
    ],
)
def test_settings_that_do_not_go_together_are_named(flags: list[str], complaint: str) -> None:
    with pytest.raises(StartError) as caught:
        Settings.from_command_line(flags)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "allowed"),
    [
        ([], True),
        (["--host", "localhost"], True),
        (["--host", "::1"], True),
        (["--host", "0.0.0.0"], False),
        (["--host", "::"], False),
        (["--host", "gpu-7.example"], False),
        (["--host", "0.0.0.0", "--model-control", "true"], True),
        (["--model-control", "false"], False),
    ],
)
def test_callers_control_models_only_on_loopback_unless_said(flags: list[str], allowed: bool) -> None:
    assert Settings.from_command_line(flags).callers_control_models is allowed


TLS = ["--tls-certificate", "a", "--tls-key", "b"]


@pytest.mark.parametrize(
    ("flags", "warned_of"),
    [
        ([], ["--tls-certificate", "--token-file or --tls-client-ca"]),
        (TLS, ["--token-file or --tls-client-ca"]),
        (["--token-file", "c"], ["--tls-certificate"]),
        ([*TLS, "--token-file", "c"], []),
        ([*TLS, "--tls-client-ca", "c"], []),
    ],
)
def test_what_keeps_nobody_out_is_warned_of_beyond_loopback(flags: list[str], warned_of: list[str]) -> None:
    assert Settings.from_command_line(flags).exposure is None
    told = Settings.from_command_line(["--host", "0.0.0.0", *flags]).exposure
    assert re.findall(r"without (--\S+(?: or --[a-z-]+)?)", (told or "").replace(",", "")) == warned_of


def test_shared_memory_that_strangers_may_use_is_warned_of() -> None:
    told = Settings.from_command_line(["--host", "0.0.0.0", "--system-shared-memory", "true"]).exposure
    assert "so that everybody who reaches it may ask and use shared memory" in (told or "")


def test_settings_are_printed_on_demand(models: Path) -> None:
    command = [sys.executable, "-m", "serving", "--model-repository", str(models), "--print-settings"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert f'model_repository = "{models}"\n' in done.stdout
    assert "model_control = true\n" in done.stdout
    assert done.stderr == ""


def test_settings_are_logged_at_start(start: Callable[..., Any]) -> None:
    _, errors = start(None, "--max-queue-size", "7").stop()
    line = next(line for line in errors.splitlines() if " INFO serving: settings " in line)
    assert " max_queue_size=7 " in line
