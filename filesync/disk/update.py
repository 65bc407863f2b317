"""Turning a directory that holds one tree into one that holds another."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from filesync.digest import Digest
from filesync.manifest import Manifest


class WantedFile(NamedTuple):
    """A content that must come from elsewhere.

    Attributes:
        ticket: names this file within its update.
        digest: BLAKE3 of the content.
        size: bytes of content.
        replaces: size of the old file at the same path, 0 if there is none.
    """

    ticket: int
    digest: Digest
    size: int
    replaces: int


class LocalTree(NamedTuple):
    """Another tree on this machine whose contents may be copied."""

    manifest: Manifest
    root: Path


class UpdateStats:
    """What an update did."""


class LargeFile:
    """One file whose content arrives in pieces."""

    basis_fd: int | None

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write ``data`` at ``offset``; all-zero pages become holes."""
        raise NotImplementedError

    def copy(self, offset: int, *, basis_offset: int, length: int) -> None:
        """Copy ``length`` bytes of the basis file."""
        raise NotImplementedError

    def finish(self) -> None:
        """Verify the whole content's BLAKE3, then put it in place.

        Raises:
            ContentCorrupt: it is not what was wanted; the file is removed.
        """
        raise NotImplementedError

    def abort(self) -> None:
        """Remove what has been written."""
        raise NotImplementedError


class TreeUpdate:
    """Makes the directory ``root``, which holds ``basis``, hold ``target``."""

    def __init__(
        self,
        root: Path,
        *,
        basis: Manifest | None,
        target: Manifest,
        local: Sequence[LocalTree] = (),
        staging: Path | None = None,
        atomic: bool = False,
        preserve_owner: bool = True,
    ) -> None:
        raise NotImplementedError

    def prepare(self) -> None:
        """Do all that needs no content from elsewhere. Blocks."""
        raise NotImplementedError

    def wanted(self) -> Iterator[WantedFile]:
        """Yield what must be fetched, in walk order, each content once."""
        raise NotImplementedError

    def write_small(self, batch: Sequence[tuple[WantedFile, bytes | memoryview]]) -> None:
        """Verify and write whole files.

        Raises:
            ContentCorrupt: one does not have its digest; those before it are written.
        """
        raise NotImplementedError

    def open_large(self, wanted: WantedFile) -> LargeFile:
        """Return a file to be written in pieces."""
        raise NotImplementedError

    def finish(self) -> UpdateStats:
        """Put links, copies and directories' metadata in place. Blocks."""
        raise NotImplementedError

    def abort(self) -> None:
        """Remove the trash and temporary files as far as possible."""
        raise NotImplementedError
