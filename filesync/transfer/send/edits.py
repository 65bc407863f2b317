"""Edits of what a scan finds changed, made meanwhile: most are wanted where the last ones went."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from filesync.digest import Digest, digest_of
from filesync.disk.scanning.watcher import Beside, Told, Watcher
from filesync.manifest import Nodes
from filesync.manifest.node import pieces
from filesync.process.entropy import random_bits
from filesync.transfer.coding import edit
from filesync.transfer.coding.edit import Edit
from filesync.transfer.coding.kept_disk import KEY_BITS
from filesync.transfer.coding.marks_disk import MarksFile
from filesync.transfer.send.comparisons import Comparisons
from filesync.transfer.send.recent import Recent
from filesync.transfer.wire import Buffer

if TYPE_CHECKING:
    from filesync.transfer.coding.recipecache import RecipeCache
    from filesync.transfer.coding.remains import Remains
    from filesync.transfer.send.fresh import Fresh

MARKS: Final = "marks"
"""The file for them in a directory of caches."""
MAX_WHOLE_BYTES: Final = 128 << 10
"""Of all contents that are told as they are. They save the round trip in which they would be asked
for, and on a slow link must take no longer."""
MAX_COMPARED_BYTES: Final = 512 << 10
"""Of those that are told by what they were: of a few hundred edits."""
MAX_MARKED_BYTES: Final = 32 << 20
"""Of contents that are marked in one scan, 33 ms for all: what is told of more has no room."""
MAX_DIRECTORIES: Final = 1024
"""That are told; with more they hardly go into a message."""
MAX_DIRECTORIES_BYTES: Final = 16 << 20
"""Of what those were, which is kept until it is told."""
_EDIT_BYTES: Final = 128
"""What an edit takes beside its delta."""


class Edited(NamedTuple):
    """What has become of small files that had changed, and of the directories above them.

    And what large ones still have.
    """

    files: Sequence[Edit] = ()
    directories: Sequence[Edit] = ()
    remains: "Sequence[Remains]" = ()


class _AllOrNone:
    """Edits that go along together or not at all: one question for all of them costs no more."""

    def __init__(self, room_bytes: int) -> None:
        self.edits: list[Edit] = []
        self._room = room_bytes

    def takes(self, size: int) -> bool:
        """Say whether one of ``size`` bytes can be added; if not, none can be, and none goes."""
        self._room -= size
        if self._room < 0:
            self.edits.clear()
        return self._room >= 0


class Edits(Watcher):
    """What became of what a scan finds changed.

    For the thread of the scan, but for large files; then for another.
    """

    def __init__(
        self,
        caches: Path | None = None,
        recent: Recent | None = None,
        comparisons: Comparisons | None = None,
        fresh: "Fresh | None" = None,
    ) -> None:
        """Begin.

        Args:
            caches: the directory in which marks stay from one scan to the next.
            recent: gets the contents of small files, which may be asked for.
            comparisons: get large files.
            fresh: gets directories that are new.
        """
        self._comparisons = comparisons or Comparisons(None)
        self._recent = recent
        self._fresh = fresh
        self._marks = MarksFile(caches / MARKS) if caches is not None else None
        self._whole = _AllOrNone(MAX_WHOLE_BYTES)
        self._compared = _AllOrNone(MAX_COMPARED_BYTES)
        self._marked_room = MAX_MARKED_BYTES if caches is not None else 0
        self._changed: list[tuple[bytes, Digest]] = []
        self._changed_room = MAX_DIRECTORIES_BYTES
        self._before: Digest | None = None

    @property
    def files(self) -> list[Edit]:
        """The edits of files that are worth telling before anybody asks."""
        return self._compared.edits + self._whole.edits

    def told(self, nodes: Nodes, there: Digest | None = None) -> Edited:
        """Return all of it; the arguments are those of ``directories``."""
        return Edited(self.files, self.directories(nodes, there), self.remains)

    @property
    def remains(self) -> "Sequence[Remains]":
        """What large files still have of what they were."""
        return self._comparisons.remains

    @property
    def recipes(self) -> "RecipeCache | None":
        """Those of large files."""
        return self._comparisons.recipes

    def are_since(self, there: Digest) -> bool:
        """Say whether ``there`` is the tree that was scanned before."""
        return there == self._before

    def directories(self, nodes: Nodes, there: Digest | None = None) -> list[Edit]:
        """Return the edits of all nodes that have changed, from the root down; none if they are many.

        Nor where it is known what is ``there``, and that is not the tree that was scanned before.
        """
        are_many = len(self._changed) > MAX_DIRECTORIES or self._changed_room < 0
        if are_many or not (there is None or self.are_since(there)):
            return []
        found: list[Edit] = []
        for old, tree in reversed(self._changed):
            node = nodes.read(tree)
            if len(node) <= edit.MAX_BYTES and (one := _became(tree, old, node)):
                found.append(one)
        return found

    # --- the scan's side ----------------------------------------------------------------------

    def directory_changed(self, path: bytes, old: bytes | None, tree: Digest) -> None:
        """Take note of a directory whose node was ``old``, after those below it."""
        if self._fresh is not None:
            self._fresh.note(path, old, tree)
        if old is None:
            return
        if len(old) <= edit.MAX_BYTES:
            self._changed_room -= len(old)
            if self._changed_room >= 0 and len(self._changed) <= MAX_DIRECTORIES:
                self._changed.append((old, tree))
        if not path:
            self._before = digest_of(old)

    def file_begun(self, path: bytes, size: int, mtime_ns: int) -> Told | None:
        """Take note of a large file that is being read, where what is new is told of."""
        return None if self._fresh is None else self._fresh.begin(path, size, mtime_ns)

    def content_read(self, digest: Digest, content: bytes) -> None:
        """Keep a file in a directory that was not there, if copies are made; take no other note."""
        if self._recent is not None and self._recent.copies is not None:
            self._recent.keep(digest, content)

    def beside(self, path: bytes, old: Digest, fd: int, size: int) -> Beside | None:
        """Return who is shown a file that had the ``old`` content, unless that is of no use."""
        if self._recent is not None and self._recent.copies is not None:
            return self._recent.copies.beside(size)
        most = edit.MAX_BYTES if self._marked_room > 0 else edit.WHOLE_BYTES
        if size <= most:
            return Editing(self, old)
        self._miss()
        return self._comparisons.beside(path, old, fd, size)

    def note(self, old: Digest, digest: Digest, content: Buffer) -> None:
        """Take note of what became of a content."""
        if not len(content):
            return
        if len(content) <= edit.WHOLE_BYTES:
            self._keep(digest, content)
            if self._whole.takes(len(content)):
                self._whole.edits.append(edit.whole(digest, content))
        elif self._marks is not None:
            self._compare(self._marks, old, digest, content)

    def end(self) -> None:
        """Keep the marks: no more files come."""
        if self._marks is not None:
            self._marks.save()

    def close(self) -> None:
        """Take note that nobody takes any more of large files."""
        self._comparisons.close()

    def _compare(self, files: MarksFile, old: Digest, digest: Digest, content: Buffer) -> None:
        self._marked_room -= len(content)
        known = files.find(old)
        if known is None:
            marks = edit.mark(content, random_bits(KEY_BITS))
            self._keep(digest, content)
        else:
            one, marks = edit.compare(digest, content, known)
            if self._compared.takes(len(one.delta) + _EDIT_BYTES):
                self._compared.edits.append(one)
            else:
                self._miss()
        files.keep(digest, marks)

    def _keep(self, digest: Digest, content: Buffer) -> None:
        if self._recent is not None:
            self._recent.keep(digest, bytes(content))

    def _miss(self) -> None:
        if self._recent is not None:
            self._recent.has_missed = True


def _became(tree: Digest, old: bytes, node: bytes) -> Edit | None:
    """Return the edit that makes ``node`` of the ``old`` one; None if that cannot be told."""
    # As long as before, most often: names are the same, and digests and times take what they took.
    one = edit.in_place(tree, old, node) if len(old) == len(node) else None
    return one or edit.between(tree, pieces(old), pieces(node))


class Editing:
    """One file that comes in one block; a ``filesync.disk.scanning.watcher.Beside``."""

    def __init__(self, edits: Edits, old: Digest) -> None:
        self._edits = edits
        self._old = old
        self._content: Buffer = b""

    def begin(self, block: memoryview) -> None:
        """Take the block, which is all, and stays."""
        self._content = block

    def finish(self) -> None:
        """Return: nothing was begun."""

    def end(self, digest: Digest | None) -> None:
        """Have the edit made, unless the file changed meanwhile."""
        if digest is not None:
            self._edits.note(self._old, digest, self._content)
