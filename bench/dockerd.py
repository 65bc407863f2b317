"""BuildKit as people run it: inside dockerd, and driven by ``docker buildx`` from another machine.

Takes root, and dockerd (23 or later), containerd, runc, docker and its plugin buildx. Where they are
not installed, another root directory can hold them, such as one made by ``debootstrap
--include=docker.io,docker-buildx,docker-cli``.
"""

import contextlib
import json
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final, Self

from bench.processes import Machine

PORT: Final = 2375
START_S: Final = 60.0
_ENTER: Final = """\
set -e
root=$1 shared=$2
shift 2
cd /
if [ "$root" != / ]; then
    mount --rbind "$root" "$root"  # runc takes no root that is no mount
    cd "$root"
    for one in /proc /sys /dev "$shared"; do
        mkdir -p ".$one"
        mount --rbind "$one" ".$one"
    done
fi
exec chroot . "$@"
"""


class Docker:
    """The programs of docker below a root directory, which see ``shared`` at its own path."""

    def __init__(self, root: Path, shared: Path) -> None:
        self._root = root
        self.shared = shared

    def words(self, machine: Machine) -> list[str]:
        """Return the words that run a command there; whoever kills them kills all it started."""
        alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        enter = ["sh", "-c", _ENTER, "sh", str(self._root), str(self.shared)]
        return [*machine.through, *alone, *enter]


class Daemon:
    """A dockerd on a machine, without a bridge: its steps have no network, or the machine's."""

    def __init__(self, docker: Docker, machine: Machine, *registries: str) -> None:
        """``registries`` are hosts with their ports that are spoken to without TLS."""
        self._docker = docker
        self._machine = machine
        self._state = docker.shared / f"dockerd-{machine.host}"
        self._settings = {
            "features": {"containerd-snapshotter": True},  # which exporting a cache takes
            "insecure-registries": registries,
        }
        self.address = f"{machine.host}:{PORT}"

    def __enter__(self) -> Self:
        self._state.mkdir()
        settings = self._state / "settings.json"
        settings.write_text(json.dumps(self._settings))
        files = [
            f"--{name}={self._state / name}" for name in ("data-root", "exec-root", "pidfile")
        ]
        network = ["--bridge=none", "--iptables=false", "--ip6tables=false"]
        listen = [f"--host=tcp://{self.address}", "--tls=false"]
        command = ["dockerd", f"--config-file={settings}", *files, *network, *listen]
        with (self._state / "log").open("ab") as log:
            words = [*self._docker.words(self._machine), *command]
            self._process = subprocess.Popen(words, stdout=log, stderr=log)
        try:
            self._wait()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def build(self, client: Machine, context: Path, *arguments: str) -> None:
        """Run ``docker buildx build`` on the machine ``client``."""
        home = self._docker.shared / "home"
        command = ["env", f"HOME={home}", "docker", f"--host=tcp://{self.address}"]
        command += ["buildx", "build", "--progress=plain", "--provenance=false"]
        words = [*self._docker.words(client), *command, *arguments, str(context)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"BuildKit failed:\n{done.stderr}")

    def version(self) -> str:
        """Return what the daemon says that it is."""
        with urllib.request.urlopen(f"http://{self.address}/version", timeout=5) as answer:
            return str(json.load(answer)["Version"])

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        while self._process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(urllib.error.URLError, OSError):
                self.version()
                return
            time.sleep(0.1)
        raise SystemExit(f"dockerd does not start:\n{(self._state / 'log').read_text()}")

    def _stop(self) -> None:
        self._process.kill()
        self._process.wait()
