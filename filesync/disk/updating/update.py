"""Turning a directory that holds one tree into one that holds another.

What the two trees have in common is not touched. What is gone is moved aside, and what the
target needs of it is moved back from there; what it needs once more of what stays, or of other
local trees, is copied; the rest is wanted from elsewhere, and handed in file by file.

Directories are reached through descriptors, one name at a time, so that nobody who changes the
tree meanwhile can have us write outside of it. New ones are 0700 from their making to the end,
when they get their metadata, the deepest first. A hard-link group's first name in walk order
gets the content; the others are linked to it at the end.

An update that did not finish leaves the directory between the trees: scan it, and take what the
scan finds as the next basis. Of a large file that was being written, what had come stays among
the partial files (``filesync.disk.updating.partial``), under a name that no scan sees, for the next update
that wants this content. What the next one does not want is removed at its start.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from filesync.digest import Digest
from filesync.disk.handles import shown
from filesync.disk.updating.files import Files, Proved, WrittenNs
from filesync.disk.updating.incoming import Incoming, WantedFile
from filesync.disk.updating.large import BasisFile, LargeFile
from filesync.disk.updating.layout import Layout, RootTimes, drop_default_acl, open_up, sweep
from filesync.disk.updating.local import LocalTree, Missing, copy_contents
from filesync.disk.updating.metadata import Metadata
from filesync.disk.updating.partial import Partials
from filesync.disk.updating.refusals import Refusals
from filesync.disk.updating.repeated import Repeated
from filesync.disk.updating.reuse import WORTH_BYTES, Reusable
from filesync.disk.updating.settle import COPY, LINK, WANTED, Settler
from filesync.disk.updating.tally import Tally, UpdateStats
from filesync.disk.updating.visits import Needs, Visits, below, count, refuse_reserved
from filesync.disk.updating.work import Directories, WorkDirectory, storing
from filesync.disk.updating.write import Data, Maker
from filesync.errors import LocalError, StoreError
from filesync.manifest import File, Manifest

__all__ = [
    "BasisFile",
    "LargeFile",
    "LocalTree",
    "Proved",
    "TreeUpdate",
    "UpdateStats",
    "WantedFile",
]

_Part = TypeVar("_Part")
_TWIN: Final = "differently cased name"
_WITH_NAME: Final = frozenset({"symbolic link", _TWIN})
"""Of what is not kept: that of which the name is not there either."""


class TreeUpdate:
    """Makes the directory ``root``, which holds ``basis``, hold ``target``.

    Call ``prepare``; then ``wanted``, and for each file that it yields ``write_small`` or
    ``open_large``, from any thread and in any order; then ``finish``. Or ``abort`` at any point.

    Attributes:
        on_copied: told the bytes of each piece that was copied from other files of this machine, and zero
            after each file, by the thread that does it; may wait. To be set before ``prepare``.
        maker: makes its files, once it is prepared.
        done: what it did, once it is finished.
        written_ns: when it wrote what it did, once it is finished or aborted.
        refused: what it could not do, if it goes on.
    """

    def __init__(
        self,
        root: Path,
        *,
        basis: Manifest | None,
        target: Manifest,
        label: bytes | None = None,
        visits: Visits | None = None,
        local: Sequence[LocalTree] = (),
        on_copied: Callable[[int], None] | None = None,
        atomic: bool = False,
        groups: frozenset[int] | None = None,
        root_times: RootTimes = RootTimes.GIVEN,
        goes_on: bool = False,
        passes_over: bool = False,
        is_last: bool = True,
        partials: Partials | None = None,
    ) -> None:
        """Touch nothing yet.

        Args:
            root: the directory. Without a basis it is empty, or is made.
            basis: what it holds, exactly.
            target: what it shall hold.
            label: what people know the directory by; None for ``root``.
            visits: of these two, where somebody has walked them already; this update's from now on.
            local: trees to copy contents from. What is not there any more, or has rotted, is
                wanted instead.
            on_copied: see the attribute.
            atomic: nobody else sees half a file under any name, and no replaced file is
                missing, because others use the directory meanwhile. In a directory that is
                new, files are written under their names all the same: it is 0700 until the
                end, so that only this user and the superuser can look in. A name that changes
                its kind is missing for a while.
            groups: those that files may be given, whose users are left alone; None for all of them,
                and for users, as far as this user may.
            root_times: what they are to be.
            goes_on: what is refused for one name alone (see ``refusals``) is left as it is, and
                noted in ``refused``, and names that the file system cannot have are counted; else
                either is an error. The root does not hold the target then.
            passes_over: files whose contents turn out not to be had may be left as they are (see
                ``pass_over``); then, too, the root does not hold the target.
            is_last: no other update follows that brings the rest; else all partial files stay for that.
            partials: those of the root, where some have come already (``Staging``); the last update closes them.
        """
        self._path = root
        self._label = os.fsencode(root) if label is None else label
        self._basis = basis
        self._target = target
        self._visits = visits or Visits(basis, target)
        self._local = local
        self.on_copied = on_copied
        self._is_atomic = atomic
        self._root_times = root_times
        self._metadata = Metadata(groups=groups)
        self._tally = Tally()
        self.refused = Refusals(goes_on=goes_on)
        self._passes_over = passes_over
        self._is_last = is_last
        self._staged = partials
        self._visits.refused = self.refused.directories
        self.done: UpdateStats | None = None
        self.written_ns = WrittenNs(0, 0, 0)
        self._began_ns = self._shown_ns = 0
        self._incoming: Incoming | None = None
        self._root: Directories | None = None
        self._work: WorkDirectory | None = None
        self._swept: set[bytes] = set()
        self._laid: Layout | None = None

    def prepare(self) -> None:
        """Do what must be done before any content comes from elsewhere. Blocks; call it once.

        Raises:
            MalformedManifest: the target contradicts itself, or has one of our temporary names.
            StoreError: this disk; or the root does not hold the basis.
        """
        self._open()
        reusable = self._reusable = Reusable(self._basis)
        self._laid = Layout(
            self._directories,
            self._workdir,
            target=self._target,
            reusable=reusable,
            moved=self._visits.moved,
            refusals=self.refused,
            swept=self._swept,
        )
        self._clear()
        is_made = reusable.has_trees
        if is_made:
            # Directories move whole before any file is taken out of them.
            for visit in self._visits:
                self._layout.make(visit)
        self._visits.is_settled = True
        self._make_files(is_made=is_made)
        if reusable.has_any or self._local:
            # What comes must not replace what something else can still be made of.
            self._files.settle()
            self._copy_local()
        if self._is_last and (self._partials.found or self._partials.ready):
            missing = self._files.find(WANTED)
            self._partials.keep_for(
                (below(one.place.path, one.entry.name), one.entry) for one in missing
            )

    def wanted(self) -> Iterator[WantedFile]:
        """Yield what must be fetched, directory by directory in walk order, as it is asked for.

        Each content above 16 KiB comes once. Called again, it yields what is still missing. For
        one thread at a time; others may write meanwhile.

        Raises:
            MalformedManifest, StoreError: as ``prepare``, which leaves to this what nothing
                else waits for, so that the first files can be asked for at once.
        """
        return self._files_to_come.wanted()

    def write_small(
        self, batch: Sequence[tuple[WantedFile, Data]], *, are_proved: bool = False
    ) -> None:
        """Verify and write whole files. Blocks; several threads may call it at once.

        Does not keep the data. ``are_proved`` says that who calls has them from who hashed them.

        Raises:
            ContentCorrupt: one does not have its digest. Nothing was written then, and all of
                the batch is still wanted.
            StoreError: this disk.
        """
        self._files_to_come.write_small(batch, are_proved=are_proved)

    def read_basis(self, wanted: WantedFile, limit: int) -> bytes | None:
        """Return the start of the old content that ``wanted`` replaces, ``limit`` bytes at most.

        It is what the disk has now, and proved by nothing: verify what is made of it. None if
        there is none. For any thread.
        """
        return self._files_to_come.read_basis(wanted, limit)

    def copy(
        self,
        wanted: WantedFile,
        source: int,
        *,
        on_copied: Callable[[int], None] | None = None,
    ) -> bool:
        """Make a file of what the open file ``source`` of this machine has. Blocks.

        ``on_copied`` is told the bytes of each piece that is written; it may wait.

        Returns:
            False, with nothing made, when it has not that content.

        Raises:
            StoreError: this disk.
        """
        return self._files_to_come.copy(wanted, source, on_copied)

    def content_at(self, path: bytes) -> Digest | None:
        """Return what the file ``path`` is to hold; None if it is none, or may not be passed over."""
        entry = self._target.find(path) if self._passes_over else None
        return entry.digest if isinstance(entry, File) else None

    def pass_over(self, wanted: WantedFile) -> None:
        """Leave a file as it is whose content is not to be had any more, if this update may do that.

        It must not be open (``open_large``). ``passed_over`` has its path, and in the end those of
        copies of it and links to it.
        """
        self._files_to_come.pass_over(wanted)

    def open_large(self, wanted: WantedFile) -> LargeFile:
        """Return a file to be written in pieces, by one thread at a time.

        Raises:
            StoreError: this disk.
        """
        return self._files_to_come.open_large(wanted)

    def proved(self) -> Iterator[Proved]:
        """Yield the files whose contents were proved as they were written.

        Once it is finished or aborted; in walk order, by directory. Any may be gone, or be another
        file by now.
        """
        if self.written_ns.until:
            yield from self._files.proved()

    def finish(self) -> UpdateStats:
        """Put copies, links and directories' metadata in place. Blocks.

        Raises:
            LocalError: not all that was wanted has been written.
            MalformedManifest: the target contradicts itself.
            StoreError: this disk; or all is done but for names that it cannot have.
        """
        work = self._workdir
        self._files.settle()
        if left := self._files.states.count(WANTED):
            raise LocalError(f"{left} files of the target are not written")
        self._files.put_later(COPY, self._repeated.copy)
        self._files.put_later(LINK, self._repeated.link)
        if self._is_last:
            self._partials.keep_only(())  # what was wanted may have come another way
        self._close_partials()
        self._layout.discard(self._visits.common())
        work.remove()
        self._work = None
        self._note_shown()
        self._layout.seal(self._metadata, root_times=self._root_times)
        self._note_end()
        self._directories.close()
        self._root = self._incoming = None
        refused = self.refused
        self._tally.add(created=-refused.uncreated, deleted=-refused.undeleted)
        not_kept = self._not_kept()
        if not refused.goes_on:
            self._check_names(not_kept)
        self.done = self._tally.stats(not_kept)
        return self.done

    def abort(self) -> None:
        """Remove temporary files as far as possible, and close what is open. Idempotent.

        Abort the large files first. What was done to the directory stays done, and what has
        come of large files stays for the next update that wants them. A root that is given no times is
        no part of the target: it was opened up, and is again what it was.
        """
        if self._work is not None:
            self._close_partials()
            with suppress(StoreError):
                if self._laid is not None:
                    self._laid.discard(self._visits.common())
            with suppress(StoreError):
                self._work.remove()
            self._work = None
        if self._root is not None:
            with suppress(StoreError), closing(self._root):
                if self._laid is not None and self._root_times is not RootTimes.GIVEN:
                    self._laid.seal_root(self._metadata, root_times=self._root_times)
                if self._incoming is not None:
                    self._note_end()
        self._root = self._incoming = None

    @property
    def partials(self) -> Partials:
        """The partial files, once it is prepared."""
        return self._partials

    @property
    def passed_over(self) -> Sequence[bytes]:
        """The paths of what was left as it is; all of them once it is finished."""
        return self._repeated.passed_over

    @property
    def has_removed(self) -> bool:
        """Say whether names that were there have gone, or do so when it is finished or aborted."""
        return self._tally.stats({}).deleted > 0

    # --- inside ---------------------------------------------------------------------------

    def _note_shown(self) -> None:
        """Note when new directories are still this user's, and all else is there."""
        if not self._metadata.not_kept:  # else what is there is not what was to be
            self._shown_ns = self._ctime_ns()

    def _note_end(self) -> None:
        self.written_ns = WrittenNs(self._began_ns, self._shown_ns, self._ctime_ns())

    def _ctime_ns(self) -> int:
        """Return the root's; it is as late as the end of the work directory."""
        with self._directories.held(b"") as root:
            return os.fstat(root).st_ctime_ns

    def _not_kept(self) -> dict[str, int]:
        twins = len(self._visits.twins)
        return self._metadata.not_kept | ({_TWIN: twins} if twins else {})

    def _check_names(self, not_kept: Mapping[str, int]) -> None:
        if missing := not_kept.keys() & _WITH_NAME:
            counted = ", ".join(f"{kind}: {not_kept[kind]:,}" for kind in sorted(missing))
            raise StoreError(
                f"{shown(self._label)}: this file system cannot have all names of the tree ({counted})"
            )

    def _close_partials(self) -> None:
        if self._is_last or self._staged is None:
            self._partials.close()

    @property
    def _directories(self) -> Directories:
        return _prepared(self._root)

    @property
    def _workdir(self) -> WorkDirectory:
        return _prepared(self._work)

    @property
    def _layout(self) -> Layout:
        return _prepared(self._laid)

    @property
    def _files_to_come(self) -> Incoming:
        return _prepared(self._incoming)

    def _open(self) -> None:
        # What is made here has names of ours, which say nothing to anybody.
        with storing(self._label, self._label):
            if self._basis is None:
                with suppress(FileExistsError):
                    os.mkdir(self._path, 0o700)
            self._root = Directories(self._path)
            with self._root.held(b"") as root:
                open_up(root)
                self._swept = sweep(root, self.refused)
                parent = os.dup(root)
                # Before there is a work directory: a signal may have this aborted at any time.
                self._partials = self._staged or Partials(parent)
                self._work = WorkDirectory(parent)
                self._began_ns = os.fstat(root).st_ctime_ns  # the work directory is new in it
            if self._work.folds_case():
                self._visits.fold_case()
            drop_default_acl(self._work.fd)
            self._metadata.special_bits = 0o7000 | self._work.umask()
            self._metadata.is_made_shared = self._work.is_shared()
            if self._staged is None:
                self._partials.look()

    def _clear(self) -> None:
        """Move away what is gone or in the way, and note what of it may be of use."""
        counts = count(self._visits.common())
        self._tally.add(created=counts.created, deleted=counts.deleted)
        for visit in islice(self._visits.common(), 1):
            refuse_reserved(entry.name for _, entry in visit.changes)
        if self._basis is not None and self._basis.summary.entries:
            needs = Needs(self._visits)
            for visit in self._visits.common():
                self._layout.clear(visit, needs)
            if needs.content_bytes >= WORTH_BYTES * self._basis.summary.entries:
                self._reusable.note_elsewhere(self._visits.common(), needs)

    def _make_files(self, *, is_made: bool) -> None:
        self.maker = Maker(
            self._workdir,
            self._partials,
            self._metadata,
            on_copied=self.on_copied,
        )
        self._repeated = Repeated(
            self._directories,
            self._workdir,
            target=self._target,
            metadata=self._metadata,
            maker=self.maker,
            tally=self._tally,
            twins=self._visits.twins,
            refusals=self.refused,
        )
        self._files = Files(
            self._directories,
            self._visits,
            layout=self._layout,
            settler=self._new_settler(),
            repeated=self._repeated,
            reusable=self._reusable,
            refusals=self.refused,
            is_made=is_made,
            is_atomic=self._is_atomic,
        )
        self._incoming = Incoming(
            self._directories,
            self._workdir,
            files=self._files,
            repeated=self._repeated,
            reusable=self._reusable,
            partials=self._partials,
            maker=self.maker,
            tally=self._tally,
        )

    def _new_settler(self) -> Settler:
        return Settler(
            self._directories,
            self._workdir,
            basis=self._basis,
            reusable=self._reusable,
            repeated=self._repeated,
            metadata=self._metadata,
            maker=self.maker,
            tally=self._tally,
            refusals=self.refused,
        )

    def _copy_local(self) -> None:
        incoming, states = self._files_to_come, self._files.states

        def copy(missing: Missing, source: int, dirfd: int) -> bool:
            place, ticket, old, entry = missing
            state = incoming.copy_to(
                place,
                dirfd,
                entry,
                source,
                replaces=old is not None,
            )
            if state is None:
                return False
            states[ticket] = state
            return True

        if self._local:
            self._files.adopt()
            missing = self._files.find(WANTED)
            copy_contents(self._local, missing, root=self._directories, copy=copy)


def _prepared(part: _Part | None) -> _Part:
    if part is None:
        raise LocalError("an update is used before prepare() or after its end")
    return part
