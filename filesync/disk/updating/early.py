"""A large file that comes to an update before anybody knows its digest.

What it holds is whatever comes: its digest is made of that, and it is ready to be what the target has of
that digest (``Maker.take``), or goes at the end. Nobody has to be believed.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Protocol

from filesync.digest import Digest
from filesync.disk.updating.incoming import WantedFile
from filesync.disk.updating.large import LargeFile
from filesync.disk.updating.partial import Partial, Partials
from filesync.disk.updating.work import storing
from filesync.disk.updating.write import Data, NewFile
from filesync.early import stand_in_of
from filesync.errors import LocalError
from filesync.manifest import File


class Keeper(Protocol):
    """What keeps such files: a ``Staging``, or an update that is prepared, and not finished."""

    @property
    def partials(self) -> Partials:
        """Where they are kept."""


class EarlyFile:
    """What a pull of one such file writes to."""

    def __init__(self, keeper: Keeper, path: bytes, size: int, mtime_ns: int) -> None:
        """Touch nothing yet. ``path`` is where it is to be, if nothing happens to it."""
        self._keeper = keeper
        self._path = path
        self._entry = File(b"", 0o600, 0, 0, mtime_ns, size, stand_in_of(size, mtime_ns))
        self._large: LargeFile | None = None

    def prepare(self) -> None:
        """Make the file. Blocks.

        Raises:
            StoreError: this disk.
        """
        partials = self._keeper.partials
        with storing(self._path):
            partial = partials.take_early(self._entry)
        if partial is not None:
            new = NewFile(partial.fd, partial.name, self._entry, [], is_partial=True)
            self._large = _Early(partials, new, self._path)

    def wanted(self) -> Iterator[WantedFile]:
        """Yield the file, unless some of it is there: what of that is right its digest will tell."""
        if self._large is not None:
            yield WantedFile(0, self._entry.digest, self._entry.size, 0)

    def open_large(self, wanted: WantedFile) -> LargeFile:
        """Return it, to be written in pieces.

        Raises:
            LocalError: it is open already.
        """
        large, self._large = self._large, None
        if large is None:
            raise LocalError("an early file is opened twice")
        return large

    def finish(self) -> None:
        """Do nothing more: it is ready."""

    def abort(self) -> None:
        """Let go of it; what has come stays for who wants the same file next. Idempotent."""
        if self._large is not None:
            self._large.abort()

    def read_basis(self, wanted: WantedFile, limit: int) -> bytes | None:
        """Return None: there is no old content."""
        return None

    def write_small(self, batch: Sequence[tuple[WantedFile, Data]]) -> None:
        """Refuse: it is not small.

        Raises:
            LocalError: always.
        """
        raise LocalError("an early file is written as a small one")

    def content_at(self, path: bytes) -> Digest | None:
        """Return None: it is not passed over, but given up."""
        return None

    def pass_over(self, wanted: WantedFile) -> None:
        """Refuse: see ``content_at``.

        Raises:
            LocalError: always.
        """
        raise LocalError("an early file is passed over")


class _Early(LargeFile):
    def __init__(self, partials: Partials, new: NewFile, path: bytes) -> None:
        def discard(new: NewFile, keep: bool) -> None:
            if new.fd >= 0:
                fd, new.fd = new.fd, -1
                with suppress(OSError):  # the update may be gone
                    partials.release(fd, new.entry.digest, keep=keep)

        self._partials = partials
        super().__init__(new, (), path=path, place=lambda _: None, discard=discard)

    def finish(self) -> None:
        """Have it be ready, whatever it holds."""
        try:
            with storing(self._path):
                partial = Partial(self._new.fd, self._new.name, [])
                self._partials.set_ready(partial, self._hash.digest(), self._path)
                self._new.fd = -1
        finally:
            self._close(keep=True)
