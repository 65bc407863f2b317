"""The parts of a transfer of many small files, each alone, by one core; for ``bench.limits``."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from blake3 import blake3

from bench.sync_rows import small_files

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
CASES: Final[dict[str, tuple[str, ...]]] = {
    # Both sides hash; who sends lists and reads, too.
    "small files, cold": ("look", "load", "prove", "send small", "prove", "make"),
    "small files, 1 % edited": ("look", "look"),
}


class SmallParts:
    """The parts, for the tree of ``bench.sync``'s first row.

    Attributes:
        bytes: of all contents.
    """

    def __init__(self, root: Path) -> None:
        self._tree, self._new = root / "small", root / "new-small"
        small_files(self._tree)
        paths = list(self._tree.glob("*/*/*"))
        self._paths = [os.fsencode(path) for path in paths]
        self._read = [path.read_bytes() for path in paths]
        self.bytes = sum(map(len, self._read))

    def measure(self) -> dict[str, float]:
        """Return the seconds that each part took."""
        shutil.rmtree(self._new, ignore_errors=True)
        parts: tuple[Callable[[], None], ...] = (self.look, self.load, self.prove, self.make)
        return {part.__name__: timed(part) for part in parts}

    def look(self) -> None:
        """List the directories and stat all that is in them."""
        for directory in self._tree.glob("*/*"):
            with os.scandir(directory) as found:
                for item in found:
                    item.stat(follow_symlinks=False)

    def load(self) -> None:
        """Open, read and close each file."""
        for path in self._paths:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            os.read(fd, 1 << 20)
            os.close(fd)

    def prove(self) -> None:
        """Hash each content, from memory."""
        for data in self._read:
            blake3(data).digest()

    def make(self) -> None:
        """Make each file anew, with its time."""
        for first in range(0, len(self._read), 100):
            directory = self._new / str(first)
            directory.mkdir(parents=True)
            dirfd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
            for number, data in enumerate(self._read[first : first + 100]):
                fd = os.open(b"%d" % number, _NEW, 0o644, dir_fd=dirfd)
                os.write(fd, data)
                os.utime(fd, ns=(0, 0))
                os.close(fd)
            os.close(dirfd)


def timed(part: Callable[[], None]) -> float:
    """Return the seconds that ``part`` takes."""
    started = time.perf_counter()
    part()
    return time.perf_counter() - started
