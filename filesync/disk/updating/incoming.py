"""Contents that come from elsewhere: asked for one by one, verified, written where they belong."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from blake3 import blake3

from filesync.digest import Digest, short
from filesync.disk.content import read_piece
from filesync.disk.updating.files import Files, Run
from filesync.disk.updating.large import BasisFile, LargeFile
from filesync.disk.updating.metadata import open_existing
from filesync.disk.updating.partial import Partials
from filesync.disk.updating.repeated import Repeated
from filesync.disk.updating.reuse import Reusable, Where
from filesync.disk.updating.settle import PROVED, SETTLED, WANTED, State
from filesync.disk.updating.tally import Tally
from filesync.disk.updating.visits import below
from filesync.disk.updating.work import Directories, Place, WorkDirectory, storing
from filesync.disk.updating.write import Data, Maker, NewFile
from filesync.errors import ContentCorrupt, LocalError, StoreError
from filesync.manifest import Entry, File


class WantedFile(NamedTuple):
    """A content that must come from elsewhere.

    Attributes:
        ticket: names this file within its update.
        digest: BLAKE3 of the content.
        size: bytes of content; never 0.
        replaces: bytes that are here and likely to share something with it, in an old file
            and in what an interrupted update has left of it; 0 if there are none.
        guess: the directory of this file, if the old one is a mere guess, as it stays (see ``similar``).
    """

    ticket: int
    digest: Digest
    size: int
    replaces: int
    guess: bytes | None = None


_Basis = tuple[Where, Digest]
"""Where an old file is, and what it should hold."""
_Pending = tuple[Place, File, bool, _Basis | None]
"""A file that was asked for: its directory, its entry, whether it replaces a file there, and
its basis. A plain tuple: there is one for each file."""


_Left = deque[tuple[WantedFile, Data]]
"""What is left of a batch: a file is taken from it when it is in place, or was refused."""


class Incoming:
    """The files of an update that must come; its methods are those of ``TreeUpdate``."""

    def __init__(
        self,
        root: Directories,
        work: WorkDirectory,
        *,
        files: Files,
        repeated: Repeated,
        reusable: Reusable,
        partials: Partials,
        maker: Maker,
        tally: Tally,
    ) -> None:
        self._root = root
        self._work = work
        self._files = files
        self._repeated = repeated
        self._reusable = reusable
        self._partials = partials
        self._maker = maker
        self._tally = tally
        self._pending: dict[int, _Pending] = {}

    def wanted(self) -> Iterator[WantedFile]:
        """Yield what must be fetched."""
        for run in self._files.runs():
            yield from self.wanted_of(run)
        yield from self.adopted()

    def adopted(self) -> Iterator[WantedFile]:
        """Yield what must be fetched besides, once all directories are there; see ``Files.adopt``."""
        if tickets := self._files.adopt():
            for run in self._files.runs():
                yield from (one for one in self.wanted_of(run) if one.ticket in tickets)

    def wanted_of(self, run: Run) -> Iterator[WantedFile]:
        """Yield what must be fetched of one directory."""
        pending, states = self._pending, self._files.states
        has_bases = self._reusable.has_similar or self._partials.found or self._partials.ready
        place, ticket, visit = run
        for old, entry in visit.changes:
            if type(entry) is not File:
                continue
            if states[ticket] == WANTED:
                basis, size, guess = None, 0, None
                if old is not None or has_bases:
                    basis, size, guess = self._find_basis(place, old, entry)
                pending[ticket] = (place, entry, type(old) is File, basis)
                yield WantedFile(ticket, entry.digest, entry.size, size, guess)
            ticket += 1

    def write_small(
        self, batch: Sequence[tuple[WantedFile, Data]], *, are_proved: bool = False
    ) -> None:
        """Verify and write whole files."""
        if not are_proved:
            self._prove(batch)
        left = deque(batch)
        while left:
            place = self._find_pending(left[0][0])[0]
            with self._root.held(place.path) as dirfd, storing(place.path):
                try:
                    self._maker.put(place, dirfd, self._settling(place, left))
                except OSError as exc:
                    self._refuse(left, exc)

    def _prove(self, batch: Sequence[tuple[WantedFile, Data]]) -> None:
        for wanted, data in batch:
            if len(data) != wanted.size or blake3(data).digest() != wanted.digest:
                place, entry, *_ = self._find_pending(wanted)
                raise ContentCorrupt(
                    f"{len(data)} bytes that came for {short(wanted.digest)} are not it",
                    below(place.path, entry.name),
                )

    def read_basis(self, wanted: WantedFile, limit: int) -> bytes | None:
        """Return the start of the old content that ``wanted`` replaces."""
        found = self._pending.get(wanted.ticket)
        if found is None or (basis := found[3]) is None or limit <= 0:
            return None
        try:
            with self._opened_basis(basis[0]) as fd:
                return read_piece(fd, 0, min(limit, os.fstat(fd).st_size))
        except (OSError, StoreError):
            return None

    def open_large(self, wanted: WantedFile) -> LargeFile:
        """Return a file to be written in pieces."""
        place, entry, _, basis = self._find_pending(wanted)
        bases: list[BasisFile] = []
        if basis is not None:
            where, digest = basis
            with suppress(OSError, StoreError), self._opened_basis(where) as fd:
                bases.append(BasisFile(os.dup(fd), os.fstat(fd).st_size, digest))
        try:
            with storing(place.path, entry.name):
                new = self._maker.open(entry)
        except BaseException:
            for one in bases:
                os.close(one.fd)
            raise

        def put_in_place(new: NewFile) -> None:
            with self._root.held(place.path) as dirfd, storing(place.path, entry.name):
                try:
                    self._maker.place(new, place, dirfd)
                except OSError as exc:
                    self._refuse_large(wanted, new, exc)
                    return
            self._settled(wanted, PROVED)

        def discard(new: NewFile, keep: bool) -> None:
            with storing(place.path, entry.name):
                self._maker.discard(new, keep=keep)

        path = below(place.path, entry.name)
        return LargeFile(new, bases, path=path, place=put_in_place, discard=discard)

    def copy(
        self, wanted: WantedFile, source: int, on_copied: Callable[[int], None] | None
    ) -> bool:
        """Make a file of what an open one of this machine has."""
        place, entry, replaces, _ = self._find_pending(wanted)
        with self._root.held(place.path) as dirfd, storing(place.path, entry.name):
            state = self.copy_to(
                place, dirfd, entry, source, replaces=replaces, on_copied=on_copied
            )
        if state is not None:
            self._settled(wanted, state)
        return state is not None

    def copy_to(
        self,
        place: Place,
        dirfd: int,
        entry: File,
        source: int,
        *,
        replaces: bool,
        on_copied: Callable[[int], None] | None = None,
    ) -> State | None:
        """Make ``entry`` of an open file; return its state then, or None if that has other content."""
        try:
            if not self._maker.copy(
                place, dirfd, entry, source, replaces=replaces, on_copied=on_copied
            ):
                return None
        except OSError as exc:
            self._repeated.refuse(place, entry, exc, replaces=replaces)
            is_made = self._repeated.stand_in(
                place,
                entry,
                lambda to, fd, one: self._maker.copy(to, fd, one, source, replaces=False),
            )
            return SETTLED if is_made else None
        self._tally.add(files_copied=1, bytes_copied=entry.size)
        return PROVED

    def pass_over(self, wanted: WantedFile) -> None:
        """Leave a file as it is, and those that were to be made of it."""
        place, entry, replaces, _ = self._find_pending(wanted)
        self._repeated.pass_over(place, entry, replaces=replaces)
        self._settled(wanted)

    def _settled(self, wanted: WantedFile, state: State = SETTLED) -> None:
        self._files.states[wanted.ticket] = state
        self._pending.pop(wanted.ticket, None)

    def _refuse(self, left: _Left, error: OSError) -> None:
        """Take note that the next file of a batch cannot be put in place."""
        wanted, data = left[0]
        place, entry, replaces, _ = self._pending[wanted.ticket]
        self._repeated.refuse(place, entry, error, replaces=replaces)
        self._repeated.stand_in_of(place, entry, data)
        self._settled(wanted)
        left.popleft()

    def _refuse_large(self, wanted: WantedFile, new: NewFile, error: OSError) -> None:
        place, entry, replaces, _ = self._pending[wanted.ticket]
        self._repeated.refuse(place, entry, error, replaces=replaces)

        def make(to: Place, dirfd: int, one: File) -> bool:
            new.entry = one
            self._maker.place(new, to, dirfd)
            return True

        self._repeated.stand_in(place, entry, make)
        self._maker.discard(new, keep=False)
        self._settled(wanted)

    def _settling(self, place: Place, left: _Left) -> Iterator[tuple[File, Data, bool]]:
        """Yield what ``Maker.put`` takes, and note each as done when the next is asked for.

        Ends at the first file of another directory than ``place``.
        """
        pending, states = self._pending, self._files.states
        while left:
            wanted, data = left[0]
            ticket = wanted[0]
            if ticket not in pending:
                self._find_pending(wanted)
            of, entry, replaces, _ = pending[ticket]
            if of is not place:
                return
            yield entry, data, replaces
            states[ticket] = PROVED
            del pending[ticket]
            left.popleft()

    def _find_basis(
        self, place: Place, old: Entry | None, entry: File
    ) -> tuple[_Basis | None, int, bytes | None]:
        """Return an old file that ``entry`` may have content of, if any.

        And how many bytes there are to look at, what an interrupted update has left included; and the
        directory, if only trying will tell whether that is worth it.
        """
        basis: _Basis | None = None
        size = 0
        guess = None
        if type(old) is File:
            where = Where(False, place.path, entry.name, is_free=False)
            basis, size = (where, old.digest), old.size
        elif found := self._reusable.find_similar(place.path, entry):
            where, size, digest, is_guess = found
            basis = (where, digest)
            guess = place.path if is_guess else None
        if self._partials.ready:
            with storing(place.path, entry.name):
                self._partials.give_up_ready(below(place.path, entry.name), entry)
        if (left := self._partials.left_of(entry)) is not None:
            size += self._partials.found[left]
            guess = None  # what is left may be of use, whatever the old file is
        return basis, size, guess

    def _find_pending(self, wanted: WantedFile) -> _Pending:
        try:
            return self._pending[wanted.ticket]
        except KeyError:
            raise LocalError(f"ticket {wanted.ticket} is not wanted") from None

    @contextmanager
    def _opened_basis(self, basis: Where) -> Iterator[int]:
        holder = self._work.trash if basis.in_trash else self._root
        with holder.held(basis.path) as dirfd:
            fd = open_existing(dirfd, basis.name)
        try:
            yield fd
        finally:
            os.close(fd)
