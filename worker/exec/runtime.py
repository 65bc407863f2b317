"""The OCI runtime of a machine, and what else it takes to run a container."""

import os
import shutil
from pathlib import Path
from typing import Final

import msgspec

from worker.exec.errors import NoRuntime

TOOLS: Final = (
    "unshare",
    "mount",
    "umount",
    "stat",
    "sh",
    "cp",
    "sleep",
    "dd",
    "chown",
    "chmod",
)
"""What running a container takes of a machine, beside an OCI runtime."""


class Runtime(msgspec.Struct, frozen=True):
    """An OCI runtime: its program, and the directory where it keeps its containers' state."""

    program: Path
    run_root: Path

    @property
    def copies_config(self) -> bool:
        """Does a container's state have a copy of its configuration, the environment and all?"""
        return self.program.name != "runc"

    def words(self, *words: str) -> list[str]:
        """Return the command line of one of the runtime's commands."""
        options = ["--root", str(self.run_root)]
        if self.program.name == "crun":
            # Ops are not limited, and a worker may itself be where no cgroup can be made.
            options.append("--cgroup-manager=disabled")
        return [str(self.program), *options, *words]


def find_runtime(run_root: Path) -> Runtime:
    """Return crun, or else runc, keeping its state in ``run_root``.

    Raises:
        NoRuntime: this machine or this user cannot run containers; says what to do.
    """
    if os.geteuid() != 0:
        raise NoRuntime("RUN needs root: start the worker as root")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise NoRuntime(f"RUN needs {missing[0]}: install util-linux and coreutils")
    found = shutil.which("crun") or shutil.which("runc")
    if found is None:
        raise NoRuntime("RUN needs an OCI runtime: install crun or runc")
    return Runtime(Path(found), run_root)


def environment() -> dict[str, str]:
    """Return that of the runtime and of all that is run beside it."""
    # Not ours: a runtime acts on variables such as NOTIFY_SOCKET.
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
