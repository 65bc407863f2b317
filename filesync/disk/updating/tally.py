"""What an update did, counted by several threads."""

import threading
from collections import Counter

import msgspec


class UpdateStats(msgspec.Struct, frozen=True):
    """What an update did.

    Attributes:
        created: names that are new; what is in a new directory counts as well.
        deleted: names that are gone, likewise.
        files_written: contents that were handed in, and empty files.
        bytes_written: their bytes.
        files_copied: contents that were copied from the old tree, another local tree, or
            within the new one.
        bytes_copied: their bytes.
        files_moved: files that were renamed.
        directories_moved: directories that were renamed with all that is in them.
        metadata_changed: names that kept their content.
        links_made: names that were linked to the first of their hard-link group.
        names_removed: names that are gone or gave way; what was below them is not counted.
        not_kept: how many files lack an "owner", "mode", "mtime", "xattr", "device",
            "symbolic link" or "hard link", or are a "differently cased name", because this user
            or file system cannot keep it.
    """

    created: int
    deleted: int
    files_written: int
    bytes_written: int
    files_copied: int
    bytes_copied: int
    files_moved: int
    directories_moved: int
    metadata_changed: int
    links_made: int
    names_removed: int
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

    def stats(self, *, moved: int, removed: int, not_kept: dict[str, int]) -> UpdateStats:
        """Return what was counted."""
        with self._lock:
            count = self._counts
            return UpdateStats(
                # What was refused is taken off, and may have been no name that was counted.
                created=max(count["created"], 0),
                deleted=max(count["deleted"], 0),
                files_written=count["files_written"],
                bytes_written=count["bytes_written"],
                files_copied=count["files_copied"],
                bytes_copied=count["bytes_copied"],
                files_moved=count["files_moved"],
                directories_moved=moved,
                metadata_changed=count["metadata_changed"],
                links_made=count["links_made"],
                names_removed=removed,
                not_kept=not_kept,
            )
