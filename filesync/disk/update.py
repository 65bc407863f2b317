"""Turning a directory that holds one tree into one that holds another.

What the two trees have in common is not touched. What is gone is moved aside, and what the
target needs of it is moved back from there; what only other local trees have is copied; the rest
is wanted from elsewhere, and handed in file by file.

Directories are reached through descriptors, one name at a time, so that nobody who changes the
tree meanwhile can have us write outside of it. They are 0700 from their making to the end, when
they get their metadata, the deepest first. A hard-link group's first name in walk order gets the
content; the others are linked to it at the end.

An update that did not finish leaves the directory between the trees: scan it, and take what the
scan finds as the next basis. Nothing is lost then but the file that was being written.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3

from filesync.digest import Digest, short
from filesync.disk.handles import open_root, shown
from filesync.disk.large import LargeFile
from filesync.disk.layout import Layout, drop_default_acl, open_up, sweep
from filesync.disk.local import LocalTree, Missing, copy_contents
from filesync.disk.metadata import Metadata
from filesync.disk.reuse import Sources
from filesync.disk.settle import COPY, LINK, SETTLED, WANTED, Settler
from filesync.disk.tally import Tally, UpdateStats
from filesync.disk.visits import Visit, visits
from filesync.disk.work import WORK_PREFIX, Directories, Place, WorkDirectory, storing
from filesync.disk.write import Maker, NewFile
from filesync.errors import ContentCorrupt, LocalError, MalformedManifest, StoreError
from filesync.manifest import File, Manifest, Subdirectory

__all__ = ["LargeFile", "LocalTree", "TreeUpdate", "UpdateStats", "WantedFile"]


class WantedFile(NamedTuple):
    """A content that must come from elsewhere.

    Attributes:
        ticket: names this file within its update.
        digest: BLAKE3 of the content.
        size: bytes of content; never 0.
        replaces: size of the old file at the same path, 0 if there is none.
    """

    ticket: int
    digest: Digest
    size: int
    replaces: int


class TreeUpdate:
    """Makes the directory ``root``, which holds ``basis``, hold ``target``.

    Call ``prepare``; then ``wanted``, and for each file that it yields ``write_small`` or
    ``open_large``, from any thread and in any order; then ``finish``. Or ``abort`` at any point.
    """

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
        """Touch nothing yet.

        Args:
            root: the directory. Without a basis it is empty, or is made.
            basis: what it holds, exactly.
            target: what it shall hold.
            local: trees to copy contents from. What is not there any more, or has rotted, is
                wanted instead.
            staging: a directory on the root's file system for temporary files; without it
                they are below the root.
            atomic: no name ever holds half a file, and no replaced file is missing, because
                others use the directory meanwhile. A name that changes its kind is missing for
                a while all the same.
            preserve_owner: set owners, as far as this user may.

        Raises:
            MalformedManifest: the target has one of our temporary names.
        """
        for entry in target.root.entries:
            if entry.name.startswith(WORK_PREFIX):
                raise MalformedManifest(f"{shown(entry.name)} is a reserved name")
        self._path = root
        self._basis = basis
        self._target = target
        self._local = local
        self._staging = staging
        self._is_atomic = atomic
        self._metadata = Metadata(preserve_owner=preserve_owner)
        self._tally = Tally()
        self._states = bytearray()
        self._pending: dict[int, Missing] = {}
        self._root: Directories | None = None
        self._work: WorkDirectory | None = None

    def prepare(self) -> None:
        """Do all that needs no content from elsewhere. Blocks; call it once.

        Raises:
            MalformedManifest: the target contradicts itself.
            StoreError: this disk; or the root does not hold the basis.
        """
        self._open()
        sources = Sources(self._basis)
        self._layout = Layout(
            self._directories, self._workdir, target=self._target, sources=sources
        )
        self._maker = Maker(self._workdir, self._metadata, is_atomic=self._is_atomic)
        self._settler = Settler(
            self._directories,
            self._workdir,
            basis=self._basis,
            target=self._target,
            sources=sources,
            metadata=self._metadata,
            maker=self._maker,
            tally=self._tally,
            is_atomic=self._is_atomic,
        )
        if self._basis is not None:
            keep = any(_needs_contents(visit) for visit in self._visits())
            for visit in visits(self._basis, self._target):
                self._layout.clear(visit, keep=keep)
        if sources.trees:
            # Directories move whole before any file is taken out of them.
            for visit in self._visits():
                self._layout.make(visit)
            for visit in self._visits():
                self._settle(visit)
        else:
            for visit in self._visits():
                self._layout.make(visit)
                self._settle(visit)
        sources.files.clear()
        if self._local:
            self._copy_local()

    def wanted(self) -> Iterator[WantedFile]:
        """Yield what must be fetched, directory by directory in walk order, as it is asked for.

        Each content above 16 KiB comes once. Called again, it yields what is still missing.
        """
        for missing in self._files(WANTED):
            _, ticket, old, entry = missing
            self._pending[ticket] = missing
            old_size = old.size if old is not None else 0
            yield WantedFile(ticket, entry.digest, entry.size, old_size)

    def write_small(
        self, batch: Sequence[tuple[WantedFile, bytes | bytearray | memoryview]]
    ) -> None:
        """Verify and write whole files. Blocks; several threads may call it at once.

        Does not keep the data.

        Raises:
            ContentCorrupt: one does not have its digest. Nothing was written then, and all of
                the batch is still wanted.
            StoreError: this disk.
        """
        for wanted, data in batch:
            if len(data) != wanted.size or blake3(data).digest() != wanted.digest:
                raise ContentCorrupt(
                    f"{len(data)} bytes that came for {short(wanted.digest)} are not it"
                )
        at = 0
        while at < len(batch):
            place = self._find_pending(batch[at][0]).place
            with self._directories.held(place.path) as dirfd, storing(place.path):
                at = self._write_run(batch, at, place, dirfd)
        total = sum(wanted.size for wanted, _ in batch)
        self._tally.add(files_written=len(batch), bytes_written=total)

    def open_large(self, wanted: WantedFile) -> LargeFile:
        """Return a file to be written in pieces, by one thread at a time.

        Raises:
            StoreError: this disk.
        """
        place, _, old, entry = self._find_pending(wanted)
        basis_fd = None
        with self._directories.held(place.path) as dirfd, storing(place.path):
            if old is not None:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                with suppress(OSError):
                    basis_fd = os.open(entry.name, flags, dir_fd=dirfd)
            try:
                new = self._maker.open(place, dirfd, entry, replaces=old is not None)
            except BaseException:
                if basis_fd is not None:
                    os.close(basis_fd)
                raise

        def put_in_place(new: NewFile) -> None:
            with self._directories.held(place.path) as dirfd, storing(place.path):
                self._maker.place(new, dirfd)
            self._note_written(wanted.ticket)
            self._tally.add(files_written=1, bytes_written=entry.size)

        def discard(new: NewFile) -> None:
            with self._directories.held(place.path) as dirfd, storing(place.path):
                self._maker.discard(new, dirfd)

        return LargeFile(new, basis_fd, place=put_in_place, discard=discard)

    def finish(self) -> UpdateStats:
        """Put copies, links and directories' metadata in place. Blocks.

        Raises:
            LocalError: not all that was wanted has been written.
            MalformedManifest: the target contradicts itself.
            StoreError: this disk.
        """
        work = self._workdir
        if WANTED in self._states:
            raise LocalError(
                f"{self._states.count(WANTED)} files of the target are not written"
            )
        for state, put in ((COPY, self._settler.copy), (LINK, self._settler.link)):
            for place, _, old, entry in self._files(state):
                with self._directories.held(place.path) as dirfd, storing(place.path):
                    put(place, dirfd, old, entry)
        work.remove()
        self._work = None
        self._layout.seal(self._metadata)
        self._directories.close()
        self._root = None
        return self._tally.stats(
            moved=len(self._layout.moved),
            removed=self._layout.removed,
            not_kept=self._metadata.not_kept,
        )

    def abort(self) -> None:
        """Remove temporary files as far as possible, and close what is open. Idempotent.

        Abort the large files first. What was done to the directory stays done.
        """
        self._pending.clear()
        if self._work is not None:
            with suppress(StoreError):
                self._work.remove()
            self._work = None
        if self._root is not None:
            self._root.close()
            self._root = None

    # --- inside ---------------------------------------------------------------------------

    @property
    def _directories(self) -> Directories:
        if self._root is None:
            raise LocalError("an update is used before prepare() or after its end")
        return self._root

    @property
    def _workdir(self) -> WorkDirectory:
        if self._work is None:
            raise LocalError("an update is used before prepare() or after its end")
        return self._work

    def _open(self) -> None:
        with storing(os.fsencode(self._path)):
            if self._basis is None:
                with suppress(FileExistsError):
                    os.mkdir(self._path, 0o700)
            self._root = Directories(self._path)
            with self._root.held(b"") as root:
                open_up(root)
                sweep(root)
                self._work = WorkDirectory(self._open_staging(root))
            drop_default_acl(self._work.fd)
            self._metadata.umask = self._work.umask()

    def _open_staging(self, root: int) -> int:
        """Return a descriptor that the work directory will close."""
        if self._staging is None:
            return os.dup(root)
        fd = open_root(self._staging)
        if os.fstat(fd).st_dev != os.fstat(root).st_dev:
            os.close(fd)
            raise StoreError(
                f"{self._staging} is on another file system than {self._path}, and cannot be "
                "its staging directory"
            )
        return fd

    def _visits(self) -> Iterator[Visit]:
        return visits(self._basis, self._target, moved=self._layout.moved)

    def _settle(self, visit: Visit) -> None:
        place = Place(visit.path)
        states = self._states
        with self._directories.held(visit.path) as dirfd, storing(visit.path):
            for old, entry in visit.changes:
                if isinstance(entry, File):
                    states.append(self._settler.settle(place, dirfd, old, entry))
                elif not isinstance(entry, Subdirectory):
                    self._settler.settle_other(dirfd, old, entry)

    def _files(self, state: int) -> Iterator[Missing]:
        """Yield the files in ``state``."""
        states = self._states
        if state not in states:
            return
        ticket = -1
        for visit in self._visits():
            place = Place(visit.path)
            for old, entry in visit.changes:
                if isinstance(entry, File):
                    ticket += 1
                    if states[ticket] == state:
                        was = old if isinstance(old, File) else None
                        yield Missing(place, ticket, was, entry)

    def _copy_local(self) -> None:
        def copy(missing: Missing, source: int, dirfd: int) -> bool:
            place, _, old, entry = missing
            if not self._maker.copy(place, dirfd, entry, source, replaces=old is not None):
                return False
            self._tally.add(files_copied=1, bytes_copied=entry.size)
            return True

        missing = self._files(WANTED)
        for ticket in copy_contents(self._local, missing, root=self._directories, copy=copy):
            self._states[ticket] = SETTLED

    def _find_pending(self, wanted: WantedFile) -> Missing:
        try:
            return self._pending[wanted.ticket]
        except KeyError:
            raise LocalError(f"ticket {wanted.ticket} is not wanted") from None

    def _note_written(self, ticket: int) -> None:
        self._states[ticket] = SETTLED
        self._pending.pop(ticket, None)

    def _write_run(
        self,
        batch: Sequence[tuple[WantedFile, bytes | bytearray | memoryview]],
        at: int,
        place: Place,
        dirfd: int,
    ) -> int:
        """Write files of one directory; return the index of the first that is of another."""
        put, pending = self._maker.put, self._pending
        while at < len(batch):
            wanted, data = batch[at]
            found = self._find_pending(wanted)
            if found.place is not place:
                break
            put(place, dirfd, found.entry, data, replaces=found.old is not None)
            self._states[wanted.ticket] = SETTLED
            pending.pop(wanted.ticket, None)
            at += 1
        return at


def _needs_contents(visit: Visit) -> bool:
    for old, entry in visit.changes:
        match entry:
            case Subdirectory():
                return True
            case File() if entry.size and not (
                isinstance(old, File) and old.digest == entry.digest and not old.link
            ):
                return True
            case _:
                pass
    return False
