"""What an update did, counted by several threads."""

import threading
from collections import Counter

import msgspec


class UpdateStats(msgspec.Struct, frozen=True):
    """What an update did.

    Attributes:
        created: names that are new; what is in a new directory counts as well.
        deleted: names that are gone, likewise.
        files_copied: contents that were copied from the old tree, another local tree, or
            within the new one.
        bytes_copied: their bytes.
        not_kept: how many files lack an "owner", "group", "mode", "mtime", "xattr", "device",
            "symbolic link" or "hard link", or are a "differently cased name", because this user
            or file system cannot keep it.
    """

    created: int
    deleted: int
    files_copied: int
    bytes_copied: int
    not_kept: dict[str, int]


class Tally:
    """Counts by name. For several threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counter[str]()

    def add(self, **counts: int) -> None:
        """Add to the counts of these names."""
        with self._lock:
            for name, count in counts.items():
                self._counts[name] += count

    def stats(self, not_kept: dict[str, int]) -> UpdateStats:
        """Return what was counted."""
        with self._lock:
            count = self._counts
            return UpdateStats(
                # What was refused is taken off, and may have been no name that was counted.
                created=max(count["created"], 0),
                deleted=max(count["deleted"], 0),
                files_copied=count["files_copied"],
                bytes_copied=count["bytes_copied"],
                not_kept=not_kept,
            )
