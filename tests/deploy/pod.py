"""A pod without Kubernetes: namespaces of its own, a read-only root file system, an unprivileged user.

What a container gets of its image is the tree that deploy/image/layout.sh makes, at the same place, beside the system's
own ``/usr``. The command runs as process 1 with exactly the variables given, in a network of its own, so that the ports
are those of the manifests. Needs root, to make the namespaces; the command has none of it.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

USER = 65532

# $1 is an empty folder for the root; then come folder, place, ro or rw for each volume; then -- and the command.
_SETUP = r"""
set -eu
root=$1; shift
mount -t tmpfs -o mode=755 tmpfs "$root"
mkdir "$root/etc" "$root/proc" "$root/dev" "$root/dev/shm" "$root/tmp"
for each in /usr /bin /sbin /lib /lib64; do
  if [ -L "$each" ]; then cp -P "$each" "$root$each"
  elif [ -d "$each" ]; then mkdir "$root$each"; mount --bind "$each" "$root$each"; mount -o remount,bind,ro "$root$each"
  fi
done
echo 'sparsewalk:x:65532:65532::/tmp:/usr/sbin/nologin' > "$root/etc/passwd"
echo '127.0.0.1 localhost' > "$root/etc/hosts"
cp /etc/ld.so.cache "$root/etc" 2>/dev/null || true
mount -t proc proc "$root/proc"
for each in null zero random urandom; do touch "$root/dev/$each"; mount --bind "/dev/$each" "$root/dev/$each"; done
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=1777,size=64m tmpfs "$root/dev/shm"
while [ "$1" != -- ]; do
  mkdir -p "$root$2"
  mount --bind "$1" "$root$2"
  [ "$3" = rw ] || mount -o remount,bind,ro "$root$2"
  shift 3
done
shift
mount -o remount,ro "$root"
ip link set lo up
exec chroot "$root" setpriv --reuid=65532 --regid=65532 --clear-groups --no-new-privs --bounding-set=-all "$@"
"""


def can_run() -> str | None:
    """None, or why pods cannot be made here."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "pods without an engine need Linux and root, to make namespaces"
    tried = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else f"no namespaces here: {tried.stderr.decode().strip()}"


def expand(command: Sequence[str], variables: Mapping[str, str]) -> list[str]:
    """``$(NAME)`` as Kubernetes reads it in commands and arguments."""
    return [re.sub(r"\$\((\w+)\)", lambda found: variables.get(found[1], found[0]), word) for word in command]


class Pod:
    """One container.

    Args:
        folder: an empty one, for the root.
        layout: what ``layout.sh`` made; it is found at /opt/sparsewalk.
        command: entry point and arguments.
        variables: all that the command gets.
        volumes: place -> folder; those in ``writable`` may be written.
    """

    def __init__(
        self,
        folder: Path,
        layout: Path,
        command: Sequence[str],
        variables: Mapping[str, str],
        volumes: Mapping[str, Path] | None = None,
        writable: Sequence[str] = (),
    ) -> None:
        mounts = [str(layout), "/opt/sparsewalk", "ro", sys.base_prefix, sys.base_prefix, "ro"]
        for place, source in (volumes or {}).items():
            mounts += [str(source), place, "rw" if place in writable else "ro"]
        assignments = [f"{name}={value}" for name, value in variables.items()]
        alone = ["unshare", "--mount", "--net", "--pid", "--fork", "--propagation", "private", "--"]
        inside = ["/usr/bin/env", "-i", *assignments, *expand(command, variables)]
        self.process = subprocess.Popen(
            [*alone, "sh", "-c", _SETUP, "pod", str(folder), *mounts, "--", *inside],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
        )

    @property
    def pid(self) -> int:
        """The command's, as seen from outside."""
        me = self.process.pid
        return int(Path(f"/proc/{me}/task/{me}/children").read_text().split()[0])

    def first_line(self) -> str:
        """The first line on stdout; with what is on stderr when there is none."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line, self.process.communicate(timeout=30)[1]
        return line

    def status(self, field: str) -> str:
        """A line of /proc/PID/status."""
        found = re.search(rf"^{field}:\s*(.*)$", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        assert found is not None
        return found[1]

    def exec(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """As ``kubectl exec`` and exec probes do: inside, with the same variables and user."""
        variables = Path(f"/proc/{self.pid}/environ").read_text().rstrip("\0").split("\0")
        enter = ["nsenter", "--target", str(self.pid), "--mount", "--net", "--pid", "--root", "--wd=/"]
        user = [f"--setuid={USER}", f"--setgid={USER}"]
        return subprocess.run(
            [*enter, *user, "/usr/bin/env", "-i", *variables, *command], capture_output=True, text=True, check=False
        )

    def outside(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        """A Python program of the tests in the pod's network: what reaches the pod by its address."""
        return subprocess.Popen(
            ["nsenter", "--target", str(self.pid), "--net", sys.executable, "-c", program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def terminate(self) -> None:
        """SIGTERM to the command, as the kubelet sends it."""
        os.kill(self.pid, signal.SIGTERM)

    def wait(self, timeout: float) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        out, errors = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, errors

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        self.kill()

    def kill(self) -> None:
        """Ends it, if it has not ended, with all that runs in it."""
        if self.process.poll() is None:
            # Process 1 of its namespace takes the others with it. unshare's --kill-child forgets at a change of user.
            os.kill(self.pid, signal.SIGKILL)
            self.process.communicate()


def image_configuration(dockerfile: Path, target: str) -> dict[str, Any]:
    """``env``, ``entrypoint``, ``user`` and ``healthcheck`` that a target of the Dockerfile ends up with."""
    text = re.sub(r"\\\n\s*", " ", dockerfile.read_text())
    stages: dict[str, dict[str, Any]] = {}
    current: dict[str, Any] = {}
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        match word:
            case "FROM":
                base, _, name = rest.partition(" AS ")
                parent = stages.get(base, {"env": {}})
                current = parent | {"env": dict(parent["env"])}
                stages[name] = current
            case "ENV":
                for name, value in re.findall(r"(\w+)=(\S+)", rest):
                    current["env"][name] = value
            case "ENTRYPOINT":
                current["entrypoint"] = json.loads(rest)
            case "HEALTHCHECK":
                current["healthcheck"] = json.loads(rest.partition("CMD ")[2])
            case "USER":
                current["user"] = rest
    told = stages[target]
    told["env"]["PATH"] = told["env"]["PATH"].replace("$PATH", "/usr/bin:/bin")
    return told
