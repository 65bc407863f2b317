"""The stat caches of all that a user scans, in one directory: those that were used last stay."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from filesync.digest import digest_of
from filesync.disk.scanning.statcache import StatCache
from filesync.errors import StoreError
from filesync.surplus import surplus

MAX_CACHES: Final = 256
"""One of 40,000 files has 6 MB."""
SLACK: Final = 32
"""More of them before the oldest go: whose turn it is costs a stat of each."""


def open_cache(directory: Path, of: bytes, *, spare_little: bool = False) -> StatCache | None:
    """Return the stat cache in ``directory`` for what ``of`` names; close it.

    None where none can be kept: a scan without one is slower, not wrong. With ``spare_little``
    none is started for what is little. When there are too many the oldest go, which does no harm to
    who uses them.
    """
    path = directory / f"{digest_of(of).hex()[:32]}.db"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_new = not path.exists()
        cache = StatCache(path, is_spared=spare_little and is_new)
    except (OSError, StoreError):
        return None
    with suppress(OSError):  # others do the same
        if not is_new:
            os.utime(path)
        else:
            for oldest in surplus(directory, MAX_CACHES, slack=SLACK, suffix=path.suffix):
                for suffix in ("", "-wal", "-shm"):
                    with suppress(FileNotFoundError):
                        os.unlink(oldest + suffix)
    return cache
