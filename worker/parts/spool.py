"""Contents on their way from a layer into a source: one file each, in a directory of its own."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from filesync.digest import Digest
from filesync.disk.content import write_all
from filesync.disk.scanning.scan import scan
from filesync.disk.updating.local import LocalTree
from filesync.errors import LocalError, StoreError
from filesync.manifest import File, Manifest, MemoryNodes
from worker.parts.listing import Leaf

_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Spool:
    """The contents that have come, below ``path``, which nobody else uses. For any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, leaf: Leaf, at: int, data: bytes | memoryview) -> None:
        """Write a piece of a file's content.

        Raises:
            StoreError: this disk.
        """
        try:
            fd = os.open(self._file(leaf), _WRITE, 0o600)
            try:
                write_all(fd, data, at)
            finally:
                os.close(fd)
        except OSError as exc:
            raise StoreError(f"{self._file(leaf)}: {exc.strerror}") from exc

    def complete(self, leaf: Leaf) -> None:
        """Give a file the size that it has; what was not written are zeros."""
        fd = os.open(self._file(leaf), _WRITE, 0o600)
        try:
            os.ftruncate(fd, leaf.member.size)
        finally:
            os.close(fd)

    def clear(self, layer: int) -> None:
        """Forget all that came of one layer."""
        for path in self._path.glob(f"{layer}-*"):
            path.unlink()

    def has(self, leaf: Leaf) -> bool:
        """Whether the content is here."""
        return self._file(leaf).exists()

    def contents(self, leaves: Iterable[Leaf]) -> tuple[dict[Leaf, Digest], LocalTree]:
        """Return what each content's digest is, and the tree that holds them all.

        Raises:
            StoreError: this disk.
        """
        nodes = MemoryNodes()
        tree = Manifest(scan(self._path, nodes).tree, nodes)
        files = {one.name: one for one in tree.root.entries if isinstance(one, File)}
        found: dict[Leaf, Digest] = {}
        for leaf in leaves:
            file = files[self._file(leaf).name.encode()]
            if file.size != leaf.member.size:
                raise LocalError(f"{file.size} of {leaf.member.size} bytes of a content")
            found[leaf] = Digest(file.digest)
        return found, LocalTree(tree, self._path)

    def _file(self, leaf: Leaf) -> Path:
        return self._path / f"{leaf.layer}-{leaf.number}"
