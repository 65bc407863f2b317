"""What the runs of one worker share on its disk."""

import os
import secrets
from pathlib import Path
from typing import Self

from filesync.disk.removing import remove_path
from worker.exec.caches import CacheDirectories
from worker.exec.ending import sweep
from worker.exec.runtime import Runtime, find_runtime


class ExecState:
    """A worker's runtime, cache directories and scratch space below one directory.

    One process at a time may use a directory, from one event loop.

    Attributes:
        runtime: what runs containers.
        caches: the directories behind cache mounts; they outlive everything here.
    """

    def __init__(self, root: Path, runtime: Runtime) -> None:
        root = Path(os.path.realpath(root))
        self.runtime = runtime
        self.caches = CacheDirectories(root / "caches")
        self._scratch = root / "scratch"
        self._scratch.mkdir(parents=True, exist_ok=True, mode=0o700)

    @classmethod
    def open(cls, root: Path) -> Self:
        """Use ``root`` with the machine's runtime.

        Raises:
            NoRuntime: this machine or this user cannot run containers; says what to do.
        """
        return cls(root, find_runtime(Path(os.path.realpath(root)) / "runtime"))

    async def recover(self) -> None:
        """Remove what a killed worker left: containers, then scratch. Call it at start-up.

        Raises:
            RuntimeFailed: a container cannot be deleted.
        """
        await sweep(self.runtime, self._scratch)
        for left in self._scratch.iterdir():
            remove_path(left)

    def new_scratch(self) -> Path:
        """Return a new empty directory; the caller removes it with `remove_path`."""
        path = self._scratch / secrets.token_hex(8)
        path.mkdir(mode=0o700)
        return path
