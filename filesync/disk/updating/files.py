"""The files of an update: numbered in walk order, and how far each one is."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from filesync.disk.updating.layout import Layout
from filesync.disk.updating.local import Missing
from filesync.disk.updating.refusals import Refusals
from filesync.disk.updating.repeated import Repeated
from filesync.disk.updating.reuse import Reusable
from filesync.disk.updating.settle import (
    COPIED_BYTES,
    LINK,
    PROVED,
    SETTLED,
    WANTED,
    Settler,
    State,
)
from filesync.disk.updating.visits import Visit, Visits
from filesync.disk.updating.work import Directories, Place, storing
from filesync.manifest import Directory, Entry, File, Special, Subdirectory, Symlink

Change = tuple[Entry | None, Entry]


class Run(NamedTuple):
    """The files of one directory.

    Attributes:
        place: the directory.
        first: the ticket of the first of them; the others follow.
        visit: what changes there; other entries than files have no ticket.
    """

    place: Place
    first: int
    visit: Visit


class WrittenNs(NamedTuple):
    """When an update wrote, as ctimes of the file system of its root.

    Attributes:
        since: all that it wrote has this one, or a later one.
        shown: what it wrote in directories that were new has an earlier one: from then on others than
            this user, and the superuser, could look into them. 0 if it is not to be relied on.
        until: all that it wrote has an earlier one.
    """

    since: int
    shown: int
    until: int


class Proved(NamedTuple):
    """Files of one directory whose contents were proved as they were written.

    Attributes:
        path: the directory's.
        directory: what it shall be, without its entries.
        files: ascending by name; any of them may be gone by now.
        is_new: the update has made the directory.
    """

    path: bytes
    directory: Directory
    files: list[File]
    is_new: bool


class Files:
    """Settles the directories of an update one after another, and knows the state of each file.

    Attributes:
        states: of each file by its ticket, one byte each; as long as the walk has come.
    """

    def __init__(
        self,
        root: Directories,
        visits: Visits,
        *,
        layout: Layout,
        settler: Settler,
        repeated: Repeated,
        reusable: Reusable,
        refusals: Refusals,
        is_made: bool,
        is_atomic: bool,
    ) -> None:
        """Settle nothing yet.

        Args:
            root: the tree's directories.
            visits: those of them that are entered.
            layout: makes the new ones.
            settler: puts in place what needs no fetching.
            repeated: what is made of other files of the target.
            reusable: what the old tree has.
            refusals: gets what cannot be put in place.
            is_made: the new directories are there already.
            is_atomic: others use the tree meanwhile.
        """
        self.states = bytearray()
        self._root = root
        self._visits = visits
        self._layout = layout
        self._settler = settler
        self._repeated = repeated
        self._reusable = reusable
        self._refusals = refusals
        self._is_made = is_made
        self._is_atomic = is_atomic
        self._is_started = False
        self._unsettled: Iterator[Run] | None = self._settle_all()

    def settle(self) -> None:
        """Settle all that has not been settled yet.

        Raises:
            MalformedManifest: the target contradicts itself.
            StoreError: this disk.
        """
        if self._unsettled is not None:
            self._is_started = True
            for _ in self._unsettled:
                pass
            self._unsettled = None

    def runs(self) -> Iterator[Run]:
        """Yield the files by directory, in walk order; at first, settle each just before.

        Raises:
            MalformedManifest, StoreError: as ``settle``.
        """
        if self._unsettled is not None and not self._is_started:
            self._is_started = True
            # Not ``yield from``: what is left is settled even when this generator is dropped.
            while (run := next(self._unsettled, None)) is not None:
                yield run
            self._unsettled = None
            return
        self.settle()
        ticket = 0
        for visit in self._visits:
            yield Run(self._place(visit), ticket, visit)
            ticket += sum(type(entry) is File for _, entry in visit.changes)

    def settle_one(self, visit: Visit) -> Run:
        """Settle one directory, which is there; its files get the next tickets.

        Raises:
            MalformedManifest, StoreError: as ``settle``.
        """
        place = self._place(visit)
        first = len(self.states)
        if visit.changes:
            with self._root.held(visit.path) as dirfd, storing(visit.path):
                self._settle(place, dirfd, visit.changes)
        return Run(place, first, visit)

    def proved(self) -> Iterator[Proved]:
        """Yield the files that are ``PROVED`` by now, in walk order; settle nothing."""
        first = 0
        last = self.states.rfind(PROVED)
        for visit in self._visits:
            if first > last:
                break
            files = [entry for _, entry in visit.changes if type(entry) is File]
            states = self.states[first : first + len(files)]
            first += len(files)
            if PROVED in states:
                proved = [
                    one for one, state in zip(files, states, strict=False) if state == PROVED
                ]
                # The root may have been there.
                is_new = visit.old is None and bool(visit.path)
                yield Proved(visit.path, visit.new, proved, is_new)

    def find(self, state: State) -> Iterator[Missing]:
        """Yield the files in ``state``."""
        self.settle()
        if state in self.states:
            for run in self.runs():
                yield from self.of_run(run, state)

    def of_run(self, run: Run, state: State) -> Iterator[Missing]:
        """Yield those files of one directory that are in ``state``."""
        states, place = self.states, run.place
        ticket = run.first - 1
        for old, entry in run.visit.changes:
            if type(entry) is not File:
                continue
            ticket += 1
            if states[ticket] == state:
                was = old if type(old) is File else None
                yield Missing(place, ticket, was, entry)

    def put_later(
        self, state: State, put: Callable[[Place, int, Entry | None, File], None]
    ) -> None:
        """Put the files in ``state`` in place, given their directories' descriptors.

        Raises:
            MalformedManifest: the target contradicts itself.
            StoreError: this disk.
        """
        if state not in self.states:
            return
        for run in self.runs():
            found = list(self.of_run(run, state))
            if not found:
                continue
            path = run.place.path
            with self._root.held(path) as dirfd:
                for place, _, old, entry in found:
                    if self._repeated.is_gone(entry):
                        self._repeated.pass_over(place, entry, replaces=old is not None)
                        continue
                    with storing(path, entry.name):
                        try:
                            put(place, dirfd, old, entry)
                        except OSError as exc:
                            self._repeated.refuse(place, entry, exc, replaces=old is not None)

    def _settle_all(self) -> Iterator[Run]:
        for visit in self._visits:
            if not self._is_made:
                self._layout.make(visit)
            yield self.settle_one(visit)

    def _settle(self, place: Place, dirfd: int, changes: list[Change]) -> None:
        add = self.states.append
        has_nothing = not self._reusable.has_any
        blocked = self._refusals.blocked(place.path)
        entry: Entry | None = None
        try:
            for old, entry in changes:
                if isinstance(entry, File):
                    is_plain = has_nothing and old is None and not entry.link
                    if is_plain and 0 < entry.size <= COPIED_BYTES:
                        add(WANTED)
                    elif entry.name in blocked:
                        add(SETTLED)
                    else:
                        add(self._settle_file(place, dirfd, old, entry))
                elif not isinstance(entry, Subdirectory) and entry.name not in blocked:
                    self._settle_other(place, dirfd, old, entry)
        except OSError as exc:
            if entry is not None:  # and not what it links to, or is written as at first
                exc.filename = entry.name
            raise

    def _settle_file(self, place: Place, dirfd: int, old: Entry | None, entry: File) -> State:
        try:
            return self._settler.settle(place, dirfd, old, entry)
        except OSError as exc:
            self._repeated.refuse(place, entry, exc, replaces=old is not None)
            if not entry.size:
                self._repeated.stand_in_of(place, entry, b"")
            return SETTLED

    def _settle_other(
        self, place: Place, dirfd: int, old: Entry | None, entry: Symlink | Special
    ) -> None:
        try:
            self._settler.settle_other(place, dirfd, old, entry)
        except OSError as exc:
            self._repeated.refuse(place, entry, exc, replaces=old is not None)

    def adopt(self) -> set[int]:
        """Have the content of each hard-link group come whose first name cannot be made.

        Call it once all directories are there that can be made. Returns the tickets of those
        names that get it instead.
        """
        adopted: set[int] = set()
        if self._repeated.may_miss and LINK in self.states:
            for run in self.runs():
                for place, ticket, _, entry in self.of_run(run, LINK):
                    if self._repeated.adopts(place, entry):
                        self.states[ticket] = WANTED
                        adopted.add(ticket)
        return adopted

    def _place(self, visit: Visit) -> Place:
        # The root may have been there, and what is there is seen by others.
        is_private = visit.old is None and bool(visit.path)
        return Place(visit.path, is_direct=is_private or not self._is_atomic)
