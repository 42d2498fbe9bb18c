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
        (["--provider", "tpu"], "--provider: Input should be 'auto', 'cuda' or 'cpu'. Received: 'tpu'"),
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
