import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import manifest
from serving.backend import CPU, CUDA, OnnxBackend, Runtime, machine, sessions, usable_cores
from serving.errors import ModelError, ProviderError

RUNTIME = Runtime(CPU, 1, required=True)
Build = Callable[..., Path]


def _open(folder: Path, runtime: Runtime = RUNTIME) -> OnnxBackend:
    return OnnxBackend(folder, manifest.read(folder / "manifest.json"), runtime)


def test_runs_the_outputs_asked_for_in_order(tmp_path: Path, build: Build) -> None:
    loaded = _open(build(tmp_path, "digits"))
    row = np.linspace(0, 1, 784, dtype=np.float32)[np.newaxis]
    reconstruction, encoding = loaded.run({"image": row}, ("reconstruction", "encoding"))
    np.testing.assert_allclose(reconstruction, 1 - row)
    np.testing.assert_allclose(encoding, [[row.sum(), row[0, 0], row[0, -1], 1 - row[0, 0]]], rtol=1e-5)


def test_tells_the_provider_in_use(tmp_path: Path, build: Build) -> None:
    loaded = _open(build(tmp_path, "digits"))
    assert loaded.provider == CPU
    assert not loaded.one_thread


def test_a_missing_file_is_named(tmp_path: Path, build: Build) -> None:
    folder = build(tmp_path, "digits")
    (folder / "model.onnx").unlink()
    with pytest.raises(ModelError, match=r"model\.onnx: cannot be read: No such file"):
        _open(folder)


def test_a_file_with_another_checksum_is_refused(tmp_path: Path, build: Build) -> None:
    folder = build(tmp_path, "digits")
    whole = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(whole[:-1])
    with pytest.raises(ModelError, match=rf"not the file its manifest speaks of.*\({len(whole) - 1} bytes\)"):
        _open(folder)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path, build: Build) -> None:
    data = b"no model at all"
    folder = build(tmp_path, "digits", onnx_sha256=hashlib.sha256(data).hexdigest())
    (folder / "model.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=r"model\.onnx: ONNX Runtime cannot load it: "):
        _open(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "code"}, r"the manifest names the outputs \['code', 'reconstruction'\]\. Received: \['encoding', "),
        ({"dtype": "UINT8"}, r"output 'encoding' is tensor\(uint8\)\. Received: tensor\(float\)"),
        ({"shape": (-1, 5)}, r"output 'encoding' has shape \[-1, 5\]\. Received: \['n', 4\]"),
        ({"shape": (-1, -1)}, r"output 'encoding' has shape \[-1, -1\]\. Received: \['n', 4\]"),
        ({"shape": (-1, 4, 1)}, r"output 'encoding' has shape \[-1, 4, 1\]\. Received: \['n', 4\]"),
    ],
)
def test_an_output_other_than_the_manifests_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path, build: Build
) -> None:
    folder = build(tmp_path, "digits")
    read = manifest.read(folder / "manifest.json")
    outputs = (read.outputs[0].model_copy(update=change), *read.outputs[1:])
    with pytest.raises(ModelError, match=message):
        OnnxBackend(folder, read.model_copy(update={"outputs": outputs}), RUNTIME)


def test_an_input_other_than_the_manifests_is_refused(tmp_path: Path, build: Build) -> None:
    folder = build(tmp_path, "digits")
    read = manifest.read(folder / "manifest.json")
    inputs = (read.image.model_copy(update={"name": "picture"}),)
    with pytest.raises(ModelError, match=r"the manifest names the inputs \['picture'\]\. Received: \['image'\]"):
        OnnxBackend(folder, read.model_copy(update={"inputs": inputs}), RUNTIME)


class TestRuntime:
    def test_cuda_without_a_gpu_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sessions, "count_gpus", lambda: 0)
        with pytest.raises(ProviderError, match="provider cuda was asked for, but"):
            Runtime.choose("cuda", 1)

    def test_auto_without_a_gpu_is_the_cpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sessions, "count_gpus", lambda: 0)
        assert Runtime.choose("auto", 3) == Runtime(CPU, 3, required=True)

    def test_cpu_does_not_look_for_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sessions, "count_gpus", lambda: pytest.fail("looked"))
        assert Runtime.choose("cpu", 0).threads == usable_cores()

    def test_what_the_library_prints_is_logged(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Stdout is for the ready line, which scripts read."""
        monkeypatch.setattr(sessions, "count_gpus", lambda: 1)
        monkeypatch.setattr(sessions.ort, "get_available_providers", lambda: [CUDA, CPU])
        monkeypatch.setattr(sessions.ort, "preload_dlls", lambda **_: print("Failed to load libcublas"), raising=False)
        assert Runtime.choose("auto", 1) == Runtime(CUDA, 1, required=False)
        assert capsys.readouterr().out == ""
        assert "onnxruntime: Failed to load libcublas" in caplog.text

    def test_a_provider_that_is_not_in_use_after_all_is_an_error(
        self, tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What ONNX Runtime does when CUDA's libraries are missing: it goes on on the CPU without an error."""
        open_session = sessions._open_session
        monkeypatch.setattr(
            sessions, "_open_session", lambda path, model, _, inputs: open_session(path, model, RUNTIME, inputs)
        )
        folder = build(tmp_path, "digits")
        with pytest.raises(ProviderError, match=f"{CUDA} was asked for, but ONNX Runtime runs it on {CPU}"):
            _open(folder, Runtime(CUDA, 1, required=True))
        assert _open(folder, Runtime(CUDA, 1, required=False)).provider == CPU


class TestUsableCores:
    def test_version_2_quota(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)))
        (tmp_path / "cpu.max").write_text("250000 100000\n")
        assert usable_cores(tmp_path) == 3

    def test_version_1_quota(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)))
        (tmp_path / "cpu").mkdir()
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
        (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
        assert usable_cores(tmp_path) == 1

    @pytest.mark.parametrize("text", ["max 100000\n", "nonsense"])
    def test_without_a_quota_the_affinity_counts(
        self, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {1, 5})
        (tmp_path / "cpu.max").write_text(text)
        assert usable_cores(tmp_path) == 2
