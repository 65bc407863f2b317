"""Who is told what a scan does, while it goes on."""

from collections.abc import Callable
from typing import Protocol

from filesync.digest import Digest

Told = Callable[[Digest], None]
"""Is told what a file holds."""


class Beside(Protocol):
    """Makes something else of a file, block by block, while it is hashed.

    One of less than READ_BYTES comes in one block, which stays as it is afterwards.
    """

    def begin(self, block: memoryview) -> None:
        """Start on ``block``, which comes next; return at once."""

    def finish(self) -> None:
        """Return when the block is not needed any more."""

    def end(self, digest: Digest | None) -> None:
        """Take note that all has come, and what it was; None if it changed meanwhile, or failed."""


class Watcher:
    """Is told what a scan has done, while it goes on; of that it has no need of, it takes no note."""

    def directory_done(self, path: bytes, tree: Digest) -> None:
        """Take note that a directory is in the store, with all that is in it."""

    def directory_changed(self, path: bytes, old: bytes | None, tree: Digest) -> None:
        """Take note that the node of a directory was ``old`` when it was scanned last, or None was noted.

        It is in the store as ``tree``. All that have changed are told of before those above them.
        """

    def content_read(self, digest: Digest, content: bytes) -> None:
        """Take note of the whole content of a small file that was read."""

    def file_begun(self, path: bytes, size: int, mtime_ns: int) -> Told | None:
        """Take note that a large file is being read, or is next, of which nothing is noted.

        What is returned is told what it holds, if it can be read, by another thread.
        """
        return None

    def beside(self, path: bytes, old: Digest, fd: int, size: int) -> Beside | None:
        """Return who is shown a file while it is hashed, if anybody.

        It is open as ``fd``, has ``size`` bytes now, and had the ``old`` content when it was noted;
        EMPTY for one that was not there. Not asked where nothing is known of its directory.
        """
        return None
