"""Where large files come before the update that they are for is known."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filesync.disk.handles import open_root, why_no_root
from filesync.disk.updating.layout import drop_default_acl
from filesync.disk.updating.partial import Partials
from filesync.disk.updating.work import storing


class Staging:
    """The partial files of one directory, from before its updates to the last of them.

    Whoever opens or closes it sees to it that no update of the directory is open then but those
    that were given ``partials``: the directory's times are put back. What is in it meanwhile
    changes nothing there.
    """

    def __init__(self, root: Path, label: bytes) -> None:
        """Touch nothing yet. ``label`` is what people know the directory by."""
        self._path = root
        self._label = label
        self._root = -1
        self._partials: Partials | None = None

    @property
    def is_open(self) -> bool:
        """Say whether there is room for large files."""
        return self._partials is not None and self._partials.fd >= 0

    @property
    def partials(self) -> Partials:
        """The files; for an update that takes what has come, and closes them if it is the last."""
        assert self._partials is not None  # asked for by who has opened it
        return self._partials

    def open(self) -> None:
        """Make room, unless it is open. Blocks.

        Raises:
            StoreError: this disk.
        """
        if self.is_open:
            return
        with storing(self._label, self._label), ExitStack() as undo:
            root = open_root(self._path)
            undo.callback(os.close, root)
            # What is made in one that is append-only would stay for good.
            if why := why_no_root(root):
                raise OSError(why, os.strerror(why))
            partials = Partials(root)
            with _times_kept(root):
                undo.callback(partials.close)
                partials.look()
                partials.open()
                drop_default_acl(partials.fd)
            undo.pop_all()
        self._root, self._partials = root, partials

    def close(self, *, keep: bool = True) -> None:
        """Let go of it; what has come stays for the next update if it is to be kept. Idempotent. Blocks.

        Raises:
            StoreError: this disk; nothing is held all the same.
        """
        root, self._root = self._root, -1
        if root < 0:
            return
        with storing(self._label, self._label), ExitStack() as undo:
            undo.callback(os.close, root)
            if self.is_open:
                undo.callback(self._close_partials, root)
                if not keep:
                    self.partials.keep_only(())

    def _close_partials(self, root: int) -> None:
        with _times_kept(root):  # for a moment: what others do in the directory is to be seen
            self.partials.close()


@contextmanager
def _times_kept(fd: int) -> Iterator[None]:
    before = os.fstat(fd)
    try:
        yield
    finally:
        with suppress(OSError):  # another's directory, or a disk that has become read-only
            os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))
