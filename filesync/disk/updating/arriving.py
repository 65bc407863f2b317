"""Making a tree whose directories come one by one, while its source is still being scanned.

Each directory comes after those in it, for that is the order in which their digests are known. So
files can be asked for and written long before the root is known; the root, which comes last,
proves that all that came before is one tree.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from filesync.digest import Digest
from filesync.disk.handles import open_root, shown
from filesync.disk.scanning.listing import header_of
from filesync.disk.scanning.readfile import read_xattrs
from filesync.disk.updating.incoming import WantedFile
from filesync.disk.updating.layout import Layout, RootTimes
from filesync.disk.updating.reuse import Reusable
from filesync.disk.updating.update import TreeUpdate, UpdateStats
from filesync.disk.updating.visits import (
    MAX_PATH_BYTES,
    ArrivedVisits,
    is_below,
    names_of,
    refuse_reserved,
)
from filesync.disk.updating.work import storing
from filesync.errors import LocalError, MalformedManifest
from filesync.manifest import (
    Directory,
    Manifest,
    Nodes,
    Subdirectory,
    empty_manifest,
    put,
    with_entries,
)


class ArrivingUpdate(TreeUpdate):
    """Makes the directory ``root``, which is empty, hold a tree that is not known yet.

    Call ``prepare``; then ``add`` for the directories as they come, writing what it returns as
    with any ``TreeUpdate``; then ``finish``, after the root has come. Or ``abort``: what is
    there then is proved, and is found by the scan of the next update.
    """

    def __init__(
        self,
        root: Path,
        nodes: Nodes,
        *,
        label: bytes | None = None,
        atomic: bool = False,
        groups: frozenset[int] | None = None,
        names: frozenset[bytes] | None = None,
        root_times: RootTimes = RootTimes.GIVEN,
        goes_on: bool = False,
    ) -> None:
        """Touch nothing yet. ``nodes`` must have each directory's node before it is added.

        With ``names`` nothing else may come to stand in ``root``, which itself stays as it is.
        """
        self._came: Digest | None = None
        self._names = names
        self._root_now: Directory | None = None
        self._arrived = ArrivedVisits(nodes)
        super().__init__(
            root,
            basis=None,
            target=empty_manifest(nodes),
            label=label,
            visits=self._arrived,
            atomic=atomic,
            groups=groups,
            root_times=root_times,
            goes_on=goes_on,
        )
        self._nodes = nodes
        self._made = {b""}
        self._made_bytes = 0

    def prepare(self) -> None:
        """Do what must be done before any directory comes. Blocks; call it once.

        Raises:
            StoreError: this disk.
        """
        target = self._target
        if self._names is not None:
            self._root_now = _header(self._path)
            target = Manifest(put(self._nodes, self._root_now), self._nodes)
        self._open()
        self._reusable = Reusable(None)
        self._laid = Layout(
            self._directories,
            self._workdir,
            target=target,
            reusable=self._reusable,
            moved=self._visits.moved,
            refusals=self.refused,
        )
        # What the root shall be comes last: until then what is made in it is not of its group.
        self._layout.share(b"", target.header)
        self._make_files(is_made=True)
        self._files.settle()  # of none: each is settled when it comes

    def wanted(self) -> Iterator[WantedFile]:
        """Yield nothing: ``add`` says what is wanted."""
        return iter(())

    def add(self, directories: Sequence[tuple[bytes, Digest]]) -> list[WantedFile]:
        """Make (path, tree digest) of the directories that came next; return what to fetch.

        Blocks. For one thread at a time; others may write meanwhile.

        Raises:
            MalformedManifest: they are no tree; see also ``TreeUpdate``.
            StoreError: this disk.
        """
        wanted: list[WantedFile] = []
        for path, tree in directories:
            visit = self._arrived.arrive(path, tree if path else self._root_of(tree))
            self._check(path, tree)
            if not self._make(path):
                self._arrived.pass_over()
                continue
            self._layout.touch(visit)
            wanted += self._files_to_come.wanted_of(self._files.settle_one(visit))
        if self.is_whole:
            self._repeated.target = self.made
            wanted += self._files_to_come.adopted()
        return wanted

    def finish(self) -> UpdateStats:
        """Put the rest in place. Blocks.

        Raises:
            LocalError: the root has not come; and as ``TreeUpdate.finish``.
        """
        made = self.made
        twins = [entry for path in self._arrived.twins if (entry := made.find(path))]
        self._tally.add(created=made.summary.entries - sum(map(names_of, twins)))
        for path in self.refused.directories:
            found = made.find(path)
            self.refused.uncreated += found.entries if isinstance(found, Subdirectory) else 0
        return super().finish()

    @property
    def is_whole(self) -> bool:
        """The root has come, and so has all that is in it."""
        return self._arrived.tree is not None

    @property
    def made(self) -> Manifest:
        """What the directory holds, once it is finished.

        Raises:
            LocalError: the root has not come.
        """
        if self._arrived.tree is None:
            raise LocalError("a tree is asked for before its root has come")
        return Manifest(self._arrived.tree, self._nodes)

    @property
    def came(self) -> Digest:
        """The tree as it came, with a root of its own.

        Raises:
            LocalError: the root has not come.
        """
        if self._came is None:
            raise LocalError("a tree is asked for before its root has come")
        return self._came

    def _root_of(self, tree: Digest) -> Digest:
        """Return what the root that came as ``tree`` shall be."""
        self._came = tree
        if self._root_now is None:
            return tree
        entries = Manifest(tree, self._nodes).root.entries
        return put(self._nodes, with_entries(self._root_now, entries))

    def _check(self, path: bytes, tree: Digest) -> None:
        top = path.partition(b"/")[0]
        root = None if top else Manifest(tree, self._nodes).root
        names = [top] if root is None else [entry.name for entry in root.entries]
        refuse_reserved(names)
        for name in names:
            if self._names is not None and name not in self._names:
                raise MalformedManifest(f"{shown(name)} came, which was not announced")

    def _make(self, path: bytes) -> bool:
        """Make a directory, and those above it that are not there yet; False if one cannot be."""
        wanted = path
        missing: list[bytes] = []
        while path not in self._made:
            # Those above it are as long as it is, and may be thousands.
            self._made_bytes += len(path)
            if self._made_bytes > MAX_PATH_BYTES:
                raise MalformedManifest("paths of directories are too long, all together")
            missing.append(path)
            path = path.rpartition(b"/")[0]
        while missing:
            path = missing.pop()
            self._made.add(path)
            if not self._is_missing(path):
                self._make_one(path)
        return not self._is_missing(wanted)

    def _make_one(self, path: bytes) -> None:
        with self._directories.held(path.rpartition(b"/")[0]) as dirfd, storing(path):
            try:
                self._layout.make_one(dirfd, path, names=1)
            except FileExistsError:
                if not self._arrived.note_twin(path):
                    raise

    def _is_missing(self, path: bytes) -> bool:
        """Say whether a directory, or one above it, cannot be made."""
        return is_below(path, self.refused.directories) or is_below(path, self._arrived.twins)


def _header(root: Path) -> Directory:
    """Return what a directory is like now."""
    with storing(b""):
        fd = open_root(root)
        try:
            return header_of(os.fstat(fd), read_xattrs(fd, b""))
        finally:
            os.close(fd)
