"""The stat caches of all that a user scans, in one directory: those that were used last stay."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from filesync.digest import digest_of
from filesync.disk.database import remove_database
from filesync.disk.scanning.statcache import StatCache
from filesync.errors import StoreError
from filesync.surplus import surplus

MAX_CACHES: Final = 256
"""One of 40,000 files has 6 MB."""
SLACK: Final = 32
"""More of them before the oldest go: whose turn it is costs a stat of each."""


def open_cache(directory: Path, of: bytes) -> StatCache | None:
    """Return the stat cache in ``directory`` for the directory ``of``; close it.

    None where none can be kept: a scan without one is slower, not wrong. When there are too many the
    oldest go, which does no harm to who uses them.
    """
    path = _path(directory, of)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_new = not path.exists()
        cache = StatCache(path)
    except (OSError, StoreError):
        return None
    with suppress(OSError):  # others do the same
        if not is_new:
            os.utime(path)
        else:
            for oldest in surplus(directory, MAX_CACHES, slack=SLACK, suffix=path.suffix):
                remove_database(Path(oldest))
    return cache


def cache_bytes(directory: Path, of: bytes) -> int | None:
    """Return how large the stat cache in ``directory`` for ``of`` is; None if there is none."""
    try:
        return _path(directory, of).stat().st_size
    except OSError:
        return None


def _path(directory: Path, of: bytes) -> Path:
    return directory / f"{digest_of(of).hex()[:32]}.db"
