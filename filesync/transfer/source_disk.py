"""Reading the contents of an offered tree from the disk."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filesync.digest import Digest, short
from filesync.disk.handles import DirectoryHandles, shown
from filesync.errors import SourceChanged, StoreError, Unavailable
from filesync.manifest import File, Manifest
from filesync.transfer import recipe
from filesync.transfer.wire import Range

# A name may have become a FIFO since the scan: O_NONBLOCK, or opening it would wait for ever.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_HELD: Final = 32


class SourceTree:
    """The files of ``manifest`` below ``root``, by digest.

    All methods block. ``load`` must have returned before ``size_of``, ``read`` and ``recipe`` are
    called; these may be called from several threads at once.
    """

    def __init__(self, manifest: Manifest, root: Path) -> None:
        self.manifest = manifest
        self.root = root
        self._places: dict[Digest, tuple[bytes, bytes, int]] = {}
        self._idle: list[DirectoryHandles] = []
        self._is_closed = False

    def load(self) -> None:
        """Index the manifest's contents. Takes some 200 bytes of memory a file."""
        if self._places:
            return
        places: dict[Digest, tuple[bytes, bytes, int]] = {}
        shared: dict[bytes, bytes] = {}
        for path, entry in self.manifest.walk():
            if isinstance(entry, File) and entry.digest not in places:
                directory = path[: -len(entry.name) - 1]
                directory = shared.setdefault(directory, directory)
                places[entry.digest] = (directory, entry.name, entry.size)
        self._places = places

    def size_of(self, digest: Digest) -> int | None:
        """Return a content's size, or None if the manifest does not list it."""
        place = self._places.get(digest)
        return None if place is None else place[2]

    def read(self, ranges: Sequence[Range]) -> bytearray:
        """Return the bytes of ``ranges``, one after another.

        Raises:
            SourceChanged: a file is no longer what the manifest says of it.
            Unavailable: one is gone, or cannot be read.
        """
        data = bytearray(sum(length for _, _, length in ranges))
        view = memoryview(data)
        with self._handles() as handles:
            for digest, offset, length in ranges:
                part, view = view[:length], view[length:]
                with self._opened(handles, digest) as fd:
                    _read_into(fd, part, offset, digest)
        return data

    def recipe(self, digest: Digest, offset: int) -> bytes:
        """Return the page of a content's recipe that begins at ``offset``.

        Raises:
            SourceChanged: the file is no longer what the manifest says of it.
            Unavailable: it is gone, or cannot be read.
        """
        size = self._places[digest][2]
        with self._handles() as handles, self._opened(handles, digest) as fd:
            chunks = recipe.cut(lambda at, length: os.pread(fd, length, at), offset, size)
            page = recipe.pack(chunks)
        if not page:
            raise SourceChanged(f"content {short(digest)} became shorter while it was read")
        return page

    def close(self) -> None:
        """Close the directories that are held open, those in use as soon as they are not."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()

    @contextmanager
    def _handles(self) -> Iterator[DirectoryHandles]:
        # One for each thread that reads, kept for the next frame: its neighbours are there.
        try:
            handles = self._idle.pop()
        except IndexError:
            try:
                handles = DirectoryHandles(self.root, limit=_HELD)
            except StoreError as exc:
                raise Unavailable(str(exc)) from exc
        try:
            yield handles
        except BaseException:
            handles.close()
            raise
        self._idle.append(handles)
        if self._is_closed:
            self.close()

    @contextmanager
    def _opened(self, handles: DirectoryHandles, digest: Digest) -> Iterator[int]:
        directory, name, size = self._places[digest]
        path = shown(directory + b"/" + name)
        try:
            fd = os.open(name, _FILE, dir_fd=handles.open(directory))
        except OSError as exc:
            raise Unavailable(f"{path} cannot be read: {exc.strerror}") from exc
        except StoreError as exc:
            raise Unavailable(f"{path} cannot be read: {exc}") from exc
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size != size:
                raise SourceChanged(f"{path} changed after it was scanned; run again")
            yield fd
        finally:
            os.close(fd)


def _read_into(fd: int, view: memoryview, offset: int, digest: Digest) -> None:
    while len(view):
        try:
            count = os.preadv(fd, [view], offset)
        except OSError as exc:
            raise Unavailable(f"content {short(digest)} cannot be read: {exc}") from exc
        if not count:
            raise SourceChanged(f"content {short(digest)} became shorter while it was read")
        view = view[count:]
        offset += count
