"""What a server tells of paths: as many by name as go into a message, and how many more there are."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Final

from filesync.digest import Digest
from filesync.sync.remote.fields import (
    MAX_MOUNTS_BYTES,
    MAX_NAMED,
    MAX_PATH_BYTES,
    MAX_PATHS,
)
from filesync.sync.remote.wire import Scanned

_CODED_BYTES: Final = 3
"""What a path takes in a message beside its own bytes."""


def scanned_of(
    tree: Digest,
    skipped: Mapping[str, int],
    unreadable: Mapping[bytes, int],
    mounts: Sequence[bytes] | None,
    *,
    of_others: bool,
) -> Scanned:
    """Return the answer that tells what a scan found; ``mounts`` is None if nobody asked for them."""
    named = named_of(unreadable)
    unnamed = len(unreadable) - len(named)
    told = None if mounts is None else _mounts_of(mounts)
    return Scanned(
        tree,
        dict(skipped),
        named,
        unnamed,
        of_others=of_others,
        mounts=told,
        unnamed_mounts=len(mounts or ()) - len(told or ()),
    )


def _mounts_of(paths: Sequence[bytes]) -> tuple[bytes, ...]:
    told: list[bytes] = []
    left = MAX_MOUNTS_BYTES
    for path in paths[:MAX_PATHS]:
        left -= len(path) + _CODED_BYTES
        if len(path) <= MAX_PATH_BYTES and left >= 0:
            told.append(path)
    return tuple(told)


def named_of(paths: Mapping[bytes, int]) -> dict[bytes, int]:
    """Return as many of ``paths`` as are named, and why."""
    named = {path: why for path, why in paths.items() if len(path) <= MAX_PATH_BYTES}
    return dict(islice(named.items(), MAX_NAMED))


def some_of(paths: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return as many of ``paths`` as are named."""
    return tuple([path for path in paths if len(path) <= MAX_PATH_BYTES][:MAX_NAMED])
