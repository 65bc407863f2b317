"""Blobs that a client has given as files: of an image layout, or of a cache in a directory."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from filesync.disk.handles import READ_FLAGS, DirectoryHandles
from filesync.errors import PathMissing, StoreError, UsageError
from filesync.trees.select import resolve
from worker.moving.errors import ImageMalformed
from worker.store import TreeView


class GivenBlobs:
    """The files in one directory of a tree, named by their hex.

    A link is followed as it is inside the tree, by its manifest: followed on this disk, it could
    lead to any file of this machine, or to a device that never ends.
    """

    def __init__(self, tree: TreeView, directory: bytes = b"") -> None:
        self._tree = tree
        self._prefix = directory + b"/" if directory else b""

    @contextmanager
    def open(self, digest: str) -> Iterator[BinaryIO]:
        """Open the file of a blob, for as long as the block lasts.

        Raises:
            ImageMalformed: there is none.
        """
        path = self._prefix + digest.removeprefix("sha256:").encode()
        try:
            above, _, name = resolve(self._tree.manifest, path).rpartition(b"/")
            with DirectoryHandles(self._tree.root) as handles:
                fd = os.open(name or b".", READ_FLAGS, dir_fd=handles.open(above))
        except (PathMissing, UsageError, OSError, StoreError) as exc:
            raise ImageMalformed(f"the image layout lacks the blob {digest}") from exc
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ImageMalformed(f"the blob {digest} of the image layout is no file")
        with open(fd, "rb") as file:
            yield file
