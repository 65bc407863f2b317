"""A tree that is copied to an empty directory of this machine while it is scanned.

Who scans first and copies then reads everything twice: where the tree is larger than the memory,
twice from the disk.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from filesync.digest import Digest
from filesync.disk.handles import READ_FLAGS, DirectoryHandles
from filesync.disk.scanning.watcher import Watcher
from filesync.disk.updating.incoming import WantedFile
from filesync.disk.updating.update import UpdateStats
from filesync.errors import LocalError, StoreError
from filesync.manifest import Manifest, Nodes, canonical_links
from filesync.sync.applying import Arrival
from filesync.sync.changing import changed
from filesync.transfer.send.contents import GrowingContents, Listed, ListedFile
from filesync.transfer.send.growing import HANDED_BYTES
from filesync.transfer.send.recent import Recent

_BATCH_BYTES: Final = 4 << 20


class Copying(Watcher):
    """Watches the scan of a tree, and has an update make what was done of it.

    Small contents are written as they were read; others are copied when their directory is done.

    Args:
        root: where the tree is.
        nodes: gets the tree's nodes by the scan; the update's own.
        update: prepared, of an empty directory; ``finish`` finishes it, else abort it.
        on_copied: told now and then how many files more are there, and how many bytes; may wait.

    Attributes:
        files: how many were written as they were read; the update counts those that it copied.
        content_bytes: how much they hold.
    """

    def __init__(
        self, root: Path, nodes: Nodes, update: Arrival, on_copied: Callable[[int, int], None]
    ) -> None:
        self.files = 0
        self.content_bytes = 0
        self._source = DirectoryHandles(root)
        self._nodes = nodes
        self._update = update
        self._on_copied = on_copied
        self._recent = Recent()
        self._contents = GrowingContents(nodes)
        self._unlisted: list[tuple[bytes, Digest]] = []
        self._done: list[tuple[bytes, Digest]] = []
        self._done_bytes = 0

    def close(self) -> None:
        """Let go of the source. Idempotent."""
        self._source.close()
        self._recent.close()

    # --- what a scan tells --------------------------------------------------------------------

    def directory_done(self, path: bytes, tree: Digest) -> None:
        """Take note of a directory; now and then, copy what has come together."""
        self._done.append((path, tree))
        self._done_bytes += len(self._nodes.read(tree))
        if self._done_bytes >= HANDED_BYTES:
            self._copy()

    def content_read(self, digest: Digest, content: bytes) -> None:
        """Keep a small content until its directory is done."""
        self._recent.keep(digest, content)

    def finish(self, tree: Digest) -> UpdateStats:
        """Copy what is left of the tree, whose scan has ended, and finish the update.

        Raises:
            LocalError: it is not what was copied.
            SourceChanged, StoreError: as by what the scan tells.
        """
        self._copy()
        if canonical_links(self._nodes, self._update.came) != tree:
            raise LocalError("what was copied is not the tree that was scanned")
        return self._update.finish()

    # --- inside -------------------------------------------------------------------------------

    def _copy(self) -> None:
        done, self._done, self._done_bytes = self._done, [], 0
        self._unlisted += done
        batch: list[tuple[WantedFile, bytes]] = []
        batch_bytes = 0
        for wanted in self._update.add(done):
            content = self._recent.take(wanted.digest, 0, wanted.size)
            if content is None:
                self._copy_one(wanted)
                continue
            batch.append((wanted, content))
            batch_bytes += wanted.size
            if batch_bytes >= _BATCH_BYTES:
                self._write(batch)
                batch, batch_bytes = [], 0
        if batch:
            self._write(batch)

    def _write(self, batch: list[tuple[WantedFile, bytes]]) -> None:
        self._update.write_small(batch, are_proved=True)  # they were hashed as they were read
        files, size = len(batch), sum(len(content) for _, content in batch)
        self.files += files
        self.content_bytes += size
        self._on_copied(files, size)

    def _find(self, digest: Digest) -> ListedFile | None:
        """Return a file that has a content: where all is small, and has room, nobody asks."""
        unlisted, self._unlisted = self._unlisted, []
        if unlisted:
            self._contents.add(
                Listed(path, tree, Manifest(tree, self._nodes).root.entries)
                for path, tree in unlisted
            )
        return self._contents.find(digest)

    def _copy_one(self, wanted: WantedFile) -> None:
        found = self._find(wanted.digest)
        if found is None:
            raise LocalError("a file is wanted that no directory has")
        try:
            dirfd = self._source.open(found.directory)
            fd = os.open(found.file.name, READ_FLAGS, dir_fd=dirfd)
        except (OSError, StoreError) as exc:
            raise changed(found.path) from exc
        try:
            if not self._update.copy(
                wanted, fd, on_copied=lambda size: self._on_copied(0, size)
            ):
                raise changed(found.path)
        finally:
            os.close(fd)
        self._on_copied(1, 0)
