"""File systems that are mounted while a test runs."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def mount(*words: str | Path) -> Iterator[None]:
    """Mount what ``mount`` takes, for the block, at the last of ``words``."""
    subprocess.run(["mount", *words], check=True)
    try:
        yield
    finally:
        # A server may still let go of what was there.
        subprocess.run(["umount", "--lazy", words[-1]], check=True)


@contextmanager
def tmpfs(at: Path, options: str = "mode=755") -> Iterator[Path]:
    """Mount a tmpfs of its own, of these ``options``, at ``at``, which is made."""
    at.mkdir(parents=True, exist_ok=True)
    with mount("-t", "tmpfs", "-o", options, "none", at):
        yield at
