"""What a server tells of paths: as many by name as go into a message, and how many more there are."""

from collections.abc import Mapping, Sequence
from itertools import islice

from filesync.digest import Digest
from filesync.sync.remote.fields import MAX_NAMED, MAX_PATH_BYTES
from filesync.sync.remote.wire import Scanned


def scanned_of(
    tree: Digest,
    skipped: Mapping[str, int],
    unreadable: Mapping[bytes, int],
    *,
    of_others: bool,
) -> Scanned:
    """Return the answer that tells what a scan found."""
    named = named_of(unreadable)
    unnamed = len(unreadable) - len(named)
    return Scanned(tree, dict(skipped), named, unnamed, of_others=of_others)


def named_of(paths: Mapping[bytes, int]) -> dict[bytes, int]:
    """Return as many of ``paths`` as are named, and why."""
    named = {path: why for path, why in paths.items() if len(path) <= MAX_PATH_BYTES}
    return dict(islice(named.items(), MAX_NAMED))


def some_of(paths: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return as many of ``paths`` as are named."""
    return tuple([path for path in paths if len(path) <= MAX_PATH_BYTES][:MAX_NAMED])
