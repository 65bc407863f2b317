"""What differs between kinds of snapshots: how a tree is made, read, shown and removed."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from filesync.digest import Digest
from filesync.manifest import Manifest
from worker.snapshots.upper import Hints


class Sealed(NamedTuple):
    """A tree that changes no more.

    Attributes:
        tree: its digest; the nodes are in the store.
        bytes: what it takes on disk beside its parent, about.
    """

    tree: Digest
    bytes: int


class Driver(Protocol):
    """Keeps trees in directories named by number, below one directory.

    ``chain`` is a snapshot's number and those below it, topmost first. No method is called for
    one number by two threads at once; all block.
    """

    @property
    def kind(self) -> str:
        """The name by which it is chosen."""

    def open(self) -> None:
        """Take over what a killed process left: nothing stays mounted.

        Raises:
            StoreError: something mounted cannot be unmounted.
        """

    def make(self, number: int, parent: Manifest, chain: Sequence[int]) -> Path:
        """Make a writable tree that begins as ``parent``; ``chain`` is empty for no parent.

        Raises:
            StoreError: this disk. What was made until then stays there.
        """

    def seal(self, number: int, parent: Manifest, hints: Hints) -> Sealed:
        """End the writing, and put the tree's manifest into ``parent``'s store.

        May be called again when it failed.

        Raises:
            SnapshotInUse: a process still has files of it open.
            SourceChanged, StoreError: something cannot be read.
        """

    def show(self, chain: Sequence[int]) -> Path:
        """Return where the whole tree of a sealed snapshot is to be read.

        Raises:
            StoreError: it cannot be mounted.
        """

    def hide(self, number: int) -> None:
        """Undo ``show``."""

    def release(self, number: int) -> None:
        """Unmount all that there is of ``number``, in use or not, so that it can be removed.

        Raises:
            StoreError: the kernel refuses.
        """
