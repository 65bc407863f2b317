"""Trees that are passed on while they come: large files as they come, others once they are whole."""

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from filesync.digest import Digest, short
from filesync.errors import SourceChanged, Unavailable
from filesync.manifest import Manifest
from filesync.transfer.errors import NotOffered
from filesync.transfer.send.contents import Contents, ListedFile, directories_of
from filesync.transfer.send.source_disk import SourceTree
from filesync.transfer.wire import DeltaItem, Range, RecipeItem
from worker.moving.passing import Passing


class PassedTree:
    """The files of a tree that is in a source here, or on its way there: a ``Source``.

    What it says of a file is for whoever takes it to prove: another may stand there by now.
    """

    def __init__(self, passing: Passing, tree: Manifest, within: Digest) -> None:
        """``within`` is the tree that comes, and has this one at the same paths: it, or more."""
        self._passing = passing
        self._tree = tree
        self._within = within
        self._contents: Contents | None = None
        self._opening = threading.Lock()
        self._opened: tuple[Path, SourceTree] | None = None
        self._is_closed = False

    async def come(self, ranges: Sequence[Range]) -> None:
        """Wait until ``ranges`` can be read.

        Raises:
            NotOffered: they are of nothing in the tree.
            Unavailable: the tree is not on its way here.
        """
        for content, offset, length in ranges:
            is_here = partial(self._has_come, self._find(content), content, offset + length)
            await self._passing.until(is_here, self._within)

    def load(self) -> None:
        """List what there is in the tree."""
        if self._contents is None:
            self._contents = Contents(self._tree.nodes, directories_of(self._tree))

    def read(self, ranges: Sequence[Range]) -> bytes | bytearray:
        """Return the bytes of ``ranges``, which have come."""
        with _still_here():
            if not any(self._passing.find(content) for content, _, _ in ranges):
                return self._source().read(ranges)
            return b"".join([self._read(one) for one in ranges])

    def recipes(self, items: Sequence[RecipeItem]) -> bytes:
        """Return the payload that answers for as many of ``items`` as go into one message."""
        self._check_whole(item[0] for item in items)
        with _still_here():
            return self._source().recipes(items)

    def deltas(self, key: int, items: Sequence[DeltaItem], signatures: bytes) -> bytes:
        """Return the payload that answers for all of ``items``."""
        self._check_whole(item[0] for item in items)
        with _still_here():
            return self._source().deltas(key, items, signatures)

    def close(self) -> None:
        """Let go of directories. Idempotent."""
        with self._opening:
            self._is_closed = True
            self._leave()

    def _check_whole(self, contents: Iterable[Digest]) -> None:
        if not all(self._is_whole(self._find(content)) for content in contents):
            # It is asked before anything is wanted, which would wait for this.
            raise Unavailable("what is on its way here is given as it comes, and not as deltas")

    def _find(self, content: Digest) -> ListedFile:
        assert self._contents is not None
        listed = self._contents.find(content)
        if listed is None:
            raise NotOffered(f"content {short(content)} is not in the tree on offer")
        return listed

    def _has_come(self, listed: ListedFile, content: Digest, end: int) -> bool:
        file = self._passing.find(content)
        return (file is not None and file.has(end)) or self._is_whole(listed)

    def _read(self, one: Range) -> bytes | bytearray:
        content, offset, length = one
        self._find(content)
        file = self._passing.find(content)
        data = b"" if file is None else file.read(offset, length)
        # It may have got its name meanwhile.
        return data or self._source().read([one])

    def _is_whole(self, listed: ListedFile) -> bool:
        root = self._passing.directory_of(self._within)
        if root is None:
            return False
        path = os.path.join(os.fsencode(root), listed.path)
        try:
            status = os.lstat(path)
        except OSError:
            return False
        # It gets its time last.
        here = (status.st_size, status.st_mtime_ns)
        return here == (listed.file.size, listed.file.mtime_ns)

    def _source(self) -> SourceTree:
        root = self._passing.directory_of(self._within)
        contents = self._contents
        # Threads read at the same time, and on for a moment when it is closed.
        with self._opening:
            if root is None or contents is None or self._is_closed:
                raise Unavailable("the tree is here no more")
            if self._opened is None or self._opened[0] != root:
                self._leave()
                self._opened = (root, SourceTree(root, lambda: contents))
            return self._opened[1]

    def _leave(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened[1].close()


@contextmanager
def _still_here() -> Iterator[None]:
    """Have whoever takes it look elsewhere for what was removed, or came to be another."""
    try:
        yield
    except SourceChanged as exc:
        raise Unavailable("what came here is here no more") from exc
