"""Reading the contents of an offered tree from the disk."""

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from filesync.digest import Digest, short
from filesync.disk.content import read_piece, reading
from filesync.disk.handles import READ_FLAGS, DirectoryHandles, shown
from filesync.disk.scanning.listing import fitting
from filesync.errors import SourceChanged, StoreError, Unavailable
from filesync.manifest import File
from filesync.process.descriptors import Quota, with_room
from filesync.transfer.coding import chunking, delta, recipe
from filesync.transfer.coding.recipe import (
    MAX_SEGMENT_BYTES,
    PAGE_BYTES,
    PAGE_PARTS,
    Recipe,
)
from filesync.transfer.coding.recipecache import RecipeCache
from filesync.transfer.errors import NotOffered
from filesync.transfer.send.contents import ListedFile
from filesync.transfer.send.recent import Recent
from filesync.transfer.threads import CUTTING
from filesync.transfer.wire import SIGNATURE_BYTES, DeltaItem, Level, Range, RecipeItem

_CHANGED: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
"""What opening a file says if another kind stands there now, or nothing."""
_HELD: Final = 32
_IDLE_SHARE: Final = 4
"""Idle handles of all trees together hold no more than this part of what the process may open: whoever
may read has many trees offered to him, and keeps each as long as he likes."""


class Finds(Protocol):
    """Knows which contents there are (``Contents``, ``GrowingContents``)."""

    def find(self, digest: Digest) -> ListedFile | None:
        """Return a file that has this content."""


_ROOM: Final = Quota(_IDLE_SHARE * (_HELD + 1))
"""For the handles that all trees of this process keep for their next frame."""


class SourceTree:
    """Files below ``root``, by digest: a ``Source``."""

    def __init__(
        self,
        root: Path,
        list_contents: Callable[[], Finds],
        recent: Recent | None = None,
        recipes: RecipeCache | None = None,
        *,
        is_live: bool = False,
    ) -> None:
        """Read nothing yet.

        Args:
            root: where the files are.
            list_contents: returns what may be read; called once.
            recent: contents that need not be read again; all of them may be read.
            recipes: of contents that need not be cut again; gets those that were cut.
            is_live: others may write to the files: one of another time than is listed has changed,
                unless it has grown.
                A tree of ours may be listed with times that its files do not have.
        """
        self.root = root
        self._list_contents = list_contents
        self._recent = recent
        self._contents: Finds | None = None
        self._loading = threading.Lock()
        self._recipes = RecipeCache() if recipes is None else recipes
        self._is_live = is_live
        self._idle: list[DirectoryHandles] = []
        self._is_closed = False

    def load(self) -> None:
        """List the contents before they are asked for, unless all that will be is recent.

        May take some ten bytes of memory a file.
        """
        if self._recent is None or not self._recent.is_enough:
            self._listed()

    def read(self, ranges: Sequence[Range]) -> bytes | bytearray:
        """Return the bytes of ``ranges``, one after another."""
        if len(ranges) == 1:
            return self._read_one(*ranges[0])
        data = bytearray(sum([length for _, _, length in ranges]))
        view = memoryview(data)
        with self._handles() as handles:
            at = 0
            for digest, offset, length in ranges:
                if content := self._taken(digest, offset, length):
                    view[at : at + length] = content
                    at += length
                    continue
                listed = self._find(digest, offset, length)
                fd = self._open(handles, listed)
                try:
                    _read_into(fd, view[at : at + length], offset, listed)
                finally:
                    os.close(fd)
                at += length
        return data

    def _read_one(self, digest: Digest, offset: int, length: int) -> bytes:
        if content := self._taken(digest, offset, length):
            return content  # without an index, if there is none
        listed = self._find(digest, offset, length)
        with self._handles() as handles:
            fd = self._open(handles, listed)
            try:
                data = read_piece(fd, offset, length)
            except OSError as exc:
                raise _unreadable(listed, exc.strerror) from exc
            finally:
                os.close(fd)
        if len(data) != length:
            raise _changed(listed)
        return data

    def recipes(self, items: Sequence[RecipeItem]) -> bytes:
        """Return the payload that answers for as many of ``items`` as go into one message."""
        pages: list[bytes] = []
        parts, size = PAGE_PARTS, PAGE_BYTES
        for digest, offset, end, level in items:
            listed = self._find(digest, offset, max(end - offset, 1))
            found = self._page(listed, offset, end, level, parts, size)
            pages.append(recipe.pack(found))
            parts -= len(found)
            size -= found.end - found.start
            if parts <= 0 or size <= 0:
                break
        return b"".join(pages)

    def deltas(self, key: int, items: Sequence[DeltaItem], signatures: bytes) -> bytes:
        """Return the payload that answers for all of ``items``."""
        packed = memoryview(signatures)
        made: list[bytes] = []
        data = memoryview(self.read([(digest, at, size) for digest, at, size, _ in items]))
        for _, _, length, count in items:
            end = count * SIGNATURE_BYTES
            average = delta.piece_bytes(length)
            with CUTTING:
                made.append(delta.encode(data[:length], packed[:end], key, average=average))
            data, packed = data[length:], packed[end:]
        return delta.join(made)

    def close(self) -> None:
        """Close the directories that are held open, those in use as soon as they are not."""
        self._is_closed = True
        with suppress(IndexError):  # threads take from it and put into it meanwhile
            while True:
                self._take_idle().close()

    # --- inside ---------------------------------------------------------------------------

    def _taken(self, digest: Digest, offset: int, length: int) -> bytes | None:
        return None if self._recent is None else self._recent.take(digest, offset, length)

    def _listed(self) -> Finds:
        with self._loading:
            if self._contents is None:
                self._contents = self._list_contents()
            return self._contents

    def _find(self, digest: Digest, offset: int, length: int) -> ListedFile:
        listed = (self._contents or self._listed()).find(digest)
        if listed is None:
            raise NotOffered(f"content {short(digest)} is not in the tree on offer")
        if offset + length > listed.file.size:
            raise NotOffered(f"content {short(digest)} ends before {offset + length}")
        return listed

    def _page(
        self, listed: ListedFile, offset: int, end: int, level: Level, limit: int, size: int
    ) -> Recipe:
        """Return the parts from ``offset`` on, at least one and at most ``limit``."""
        known = self._recipes.find(listed.file.digest, offset, end)
        # A segment that begins within ``size`` is whole: it ends before more is read than that.
        chunks = known or self._cut(listed, offset, end, size + MAX_SEGMENT_BYTES)
        found = (chunks if level is Level.CHUNKS else chunks.segments()).beginning(limit, size)
        # Cut only up to where somebody said, the last chunk may end where no other peer cuts.
        is_sure = known is None and end == listed.file.size
        if is_sure and (told := chunks.between(offset, found.end)) is not None:
            self._recipes.note(listed.file.digest, told)
        return found

    def _cut(self, listed: ListedFile, offset: int, end: int, enough: int) -> Recipe:
        with self._handles() as handles:
            fd = self._open(handles, listed)
            try:
                chunks = chunking.cut(reading(fd), offset, end, enough=enough)
            except OSError as exc:
                raise _unreadable(listed, exc.strerror) from exc
            finally:
                os.close(fd)
        if not chunks:
            raise _changed(listed)
        return chunks

    def _open(self, handles: DirectoryHandles, listed: ListedFile) -> int:
        if self._recent is not None and (copies := self._recent.copies) is not None:
            copy = with_room(copies.open, listed.file.digest)
            if copy is not None:
                return copy
        fd = with_room(_open, handles, listed)
        if not self._is_as_listed(os.fstat(fd), listed.file):
            os.close(fd)
            raise _changed(listed)
        return fd

    def _is_as_listed(self, status: os.stat_result, file: File) -> bool:
        if not stat.S_ISREG(status.st_mode):
            return False
        if not self._is_live:
            return status.st_size == file.size
        # What has only grown, as logs do, is still there as it was; who gets it proves that.
        is_same = fitting(status.st_mtime_ns) == file.mtime_ns and status.st_size == file.size
        return is_same or status.st_size > file.size

    @contextmanager
    def _handles(self) -> Iterator[DirectoryHandles]:
        # One for each thread that reads, kept for the next frame: its neighbours are there.
        try:
            handles = self._take_idle()
        except IndexError:
            try:
                handles = with_room(DirectoryHandles, self.root, limit=_HELD)
            except StoreError as exc:
                raise Unavailable(str(exc)) from exc
        try:
            yield handles
        except BaseException:
            handles.close()
            raise
        if not _ROOM.take():
            handles.close()
            return
        self._idle.append(handles)
        if self._is_closed:
            self.close()

    def _take_idle(self) -> DirectoryHandles:
        handles = self._idle.pop()
        _ROOM.give_back()
        return handles


def _open(handles: DirectoryHandles, listed: ListedFile) -> int:
    try:
        return os.open(listed.file.name, READ_FLAGS, dir_fd=handles.open(listed.directory))
    except (OSError, StoreError) as exc:
        cause = exc if isinstance(exc, OSError) else exc.__cause__
        if isinstance(cause, OSError) and cause.errno in _CHANGED:
            raise _changed(listed) from exc
        why = exc.strerror if isinstance(exc, OSError) else exc
        raise _unreadable(listed, why) from exc


def _read_into(fd: int, view: memoryview, offset: int, listed: ListedFile) -> None:
    while len(view):
        try:
            count = os.preadv(fd, [view], offset)
        except OSError as exc:
            raise _unreadable(listed, exc.strerror) from exc
        if not count:
            raise _changed(listed)
        if count == len(view):
            return
        view = view[count:]
        offset += count


def _changed(listed: ListedFile) -> SourceChanged:
    return SourceChanged(
        f"{shown(listed.path)} changed after it was scanned; run again", listed.path
    )


def _unreadable(listed: ListedFile, why: object) -> Unavailable:
    return Unavailable(f"{shown(listed.path)} cannot be read: {why}")
