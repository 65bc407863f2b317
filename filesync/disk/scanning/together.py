"""Scans of a directory at the same time, as for many who take the same: one reads it, the others compare.

What a scan has read of a directory of which its stat cache knew nothing, others find as if their cache had
known it: each looks at all names and stats itself, after it was asked for, and reads what is not as it was
when it was read. So nobody is given what stood there before he asked.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from threading import Condition
from time import monotonic
from typing import Final

from filesync.disk.scanning.listing import CTIME, DEVICE, INODE, Found, look, racy
from filesync.disk.scanning.reading import Listing, Reader
from filesync.disk.scanning.statcache import SeenFile
from filesync.manifest import File

MOST_FILES: Final = 20_000
"""So many of those that were read last are kept, of half a kilobyte each."""
PATIENCE_S: Final = 1.0
"""How long one scan waits for others in all: what they read may be huge, and nothing that it needs."""

Identity = tuple[int, int]
"""A directory's device and inode."""
Files = Mapping[bytes, SeenFile]


class Together:
    """What scans that are under way at the same time have read, and are reading."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._scans = 0
        self._reading: set[Identity] = set()
        self._read: dict[Identity, Files] = {}
        self._kept = 0

    @contextmanager
    def scan(self) -> Iterator["Turns"]:
        """Take part with one scan, for the block."""
        with self._changed:
            self._scans += 1
        try:
            yield Turns(self)
        finally:
            with self._changed:
                self._scans -= 1
                if not self._scans:
                    self._read.clear()
                    self._kept = 0

    def begin(self, directory: Identity, *, patience_s: float) -> Files | None:
        """Return what was read in ``directory``; None if the caller is to read it, and say when he has (``end``).

        Nothing if who reads it takes too long.
        """
        with self._changed:
            self._changed.wait_for(lambda: directory not in self._reading, patience_s)
            if directory in self._reading:
                return {}
            files = self._read.get(directory)
            if files is None:
                self._reading.add(directory)
            return files

    def end(self, directory: Identity, read: Callable[[], Files]) -> None:
        """Have others find what was ``read`` in ``directory``, which is asked for if there are any."""
        files = read() if self._scans > 1 else {}
        with self._changed:
            self._reading.discard(directory)
            if files:
                self._read[directory] = files
                self._kept += len(files)
            while self._kept > MOST_FILES:
                self._kept -= len(self._read.pop(next(iter(self._read))))
            self._changed.notify_all()


TOGETHER: Final = Together()
"""Those of this process that have a stat cache: the others are to read all."""


class Turns:
    """One scan's part."""

    def __init__(self, together: Together) -> None:
        self._together = together
        self._patience_s = PATIENCE_S

    def read_new(
        self, reader: Reader, listing: Listing, found: Found, *, started_ns: int
    ) -> None:
        """Have ``listing`` hold what was ``found`` in a directory, by a scan that began at ``started_ns``.

        It is read to its end, by this or another scan.

        Raises:
            FilesyncError, OSError: as ``Reader.read_new`` and ``finish``.
        """
        directory = listing.device, listing.inode
        began_s = monotonic()
        known = self._together.begin(directory, patience_s=self._patience_s)
        self._patience_s = max(0.0, self._patience_s - (monotonic() - began_s))
        read: Callable[[], Files] = dict
        try:
            if known:
                listing.directories, listing.stamps = look(found, sparse=listing.sparse)
                listing.seen = known
                reader.read_changed(listing)
                listing.kept = {}  # for the stat cache it is as if this scan had read them
            else:
                reader.read_new(listing, found)
            reader.finish(listing)
            read = partial(_certain, listing, started_ns)
        finally:
            if known is None:
                self._together.end(directory, read)


def _certain(listing: Listing, started_ns: int) -> Files:
    """Return what was read of files that will show it if they change."""
    stamps = listing.stamps
    unsure = racy(stamps, started_ns=started_ns) | listing.unknown
    files = (one for one in listing.entries if isinstance(one, File))
    return {
        file.name: (
            file,
            stamps[file.name][CTIME],
            stamps[file.name][INODE],
            stamps[file.name][DEVICE],
        )
        for file in files
        if file.name not in unsure
    }
