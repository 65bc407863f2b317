"""Making a tree whose directories come one by one, while its source is still being scanned.

Each directory comes after those in it, for that is the order in which their digests are known. So
files can be asked for and written long before the root is known; the root, which comes last,
proves that all that came before is one tree.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from filesync.digest import Digest
from filesync.disk.handles import shown
from filesync.disk.reserved import is_reserved
from filesync.disk.updating.incoming import WantedFile
from filesync.disk.updating.layout import Layout
from filesync.disk.updating.reuse import Sources
from filesync.disk.updating.update import TreeUpdate, UpdateStats
from filesync.disk.updating.visits import (
    MAX_PATH_BYTES,
    ArrivedVisits,
    Visit,
    is_below,
    names_of,
)
from filesync.disk.updating.work import storing
from filesync.errors import LocalError, MalformedManifest
from filesync.manifest import Manifest, Nodes, Subdirectory, empty_manifest


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
        goes_on: bool = False,
    ) -> None:
        """Touch nothing yet. ``nodes`` must have each directory's node before it is added."""
        self._arrived = ArrivedVisits(nodes)
        super().__init__(
            root,
            basis=None,
            target=empty_manifest(nodes),
            label=label,
            visits=self._arrived,
            atomic=atomic,
            groups=groups,
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
        self._open()
        self._sources = Sources(None)
        self._laid = Layout(
            self._directories,
            self._workdir,
            target=self._target,
            sources=self._sources,
            moved=self._visits.moved,
            refusals=self.refused,
        )
        # What the root shall be comes last: until then what is made in it is not of its group.
        self._layout.share(b"", self._target.root)
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
            visit = self._arrived.arrive(path, tree)
            self._check(visit)
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

    def _check(self, visit: Visit) -> None:
        top = visit.path.partition(b"/")[0]
        for name in (top, *([] if top else [entry.name for entry in visit.new.entries])):
            if is_reserved(name):
                raise MalformedManifest(f"{shown(name)} is a reserved name")

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
