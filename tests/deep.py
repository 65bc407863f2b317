"""Trees that are deeper than a path can be long."""

import os
from pathlib import Path


def dig(top: Path, depth: int, name: str = "d") -> int:
    """Make ``depth`` directories inside each other; return the deepest, open: close it."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    return fd
