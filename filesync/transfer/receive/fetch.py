"""What one pull has to fetch, and where each byte is to come from. Without I/O.

A ``Fetch`` is fed files, and hands out units of work to the sessions of its replicas: ranges to
want, and questions to ask. It belongs to the pull and not to a session, so several replicas work
off one queue, and what one leaves undone another gets, from the middle of a file if need be.

A file comes in one of four ways:

* small ones are wanted whole, many in a ``Batch``;
* a small one that replaces another is asked for as a delta against it, where that pays;
* a large one is wanted ``Piece`` by piece;
* a large one that replaces another is preceded by its recipe, segments first, then the chunks of
  segments that no old file has. What old files have is copied. What is missing between two
  copies has replaced what stood between them there: it is asked for as a delta against that,
  where that pays, and wanted as it is otherwise. Where it was said what remains of the old file
  (``coding.remains``), and that one is here, no recipe is asked for.

The driver performs ``effects`` and tells of them by the methods that their docstrings name. All
that is put together is verified by whoever writes it; what turns out wrong is fetched once more
without the help of old files, for which no peer is to blame.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from filesync.digest import Digest
from filesync.disk.updating.update import WantedFile
from filesync.transfer.coding import matching, recipe
from filesync.transfer.coding.delta import Pieces
from filesync.transfer.coding.matching import Copy, Index
from filesync.transfer.coding.recipe import Recipe
from filesync.transfer.coding.remains import Remains, between
from filesync.transfer.flow import WINDOW_BYTES
from filesync.transfer.receive.deltaasks import DeltaAsks
from filesync.transfer.receive.gaps import (
    GapPart,
    Old,
    cut_evenly,
    cut_up,
    narrowed,
    replaced,
)
from filesync.transfer.receive.policy import delta_pays
from filesync.transfer.receive.units import (
    Ask,
    Based,
    Batch,
    Coded,
    CopyRanges,
    CutBases,
    DeltaAsk,
    Effect,
    FinishFile,
    Gap,
    NeedFiles,
    PassOver,
    Piece,
    RebuildGaps,
    RecipeAsk,
    Stretch,
    Unit,
    Work,
)
from filesync.transfer.receive.wants import PIECE_BYTES, Wants
from filesync.transfer.receive.works import Works
from filesync.transfer.wire import MAX_ASK_ITEMS, Buffer, Level

SMALL_BYTES: Final = 256 << 10
"""Files up to this size are written whole; larger ones piece by piece."""
DELTA_BYTES: Final = 128 << 10
"""A file up to this size needs no recipe: one delta tells all, for the price of a file of 1.5 kB of
signatures, and less than half the work of cutting and naming chunks of it on both sides."""
SEGMENTS_BYTES: Final = 1 << 20
"""A file up to this size has few chunks: segments would only cost a round trip."""
COPY_BYTES: Final = 4 << 20
"""Copied at once: what comes meanwhile is written in between."""
AHEAD_UNITS: Final = 32
"""Files are asked for when fewer units than this are ready."""
MAX_PENDING_FILES: Final = 16_384
"""Nor when so many are not in place: each takes some 900 bytes of memory here, however small."""


class Fetch:
    """Decides what a pull fetches next.

    Args:
        window_bytes: wanted and not yet written at most.
        rate: the fastest link to any replica in bytes per second; 0 while unknown.
        remains: what was said of large files, by digest; not used of those that are too large.

    Attributes:
        effects: what to do now, in order; the driver takes them out.
        files_done: files that are in place.
    """

    def __init__(
        self,
        *,
        window_bytes: int = WINDOW_BYTES,
        rate: Callable[[], float] = lambda: 0.0,
        remains: Mapping[Digest, Remains] = MappingProxyType({}),
    ) -> None:
        self.effects: deque[Effect] = deque([NeedFiles()])
        self.files_done = 0
        self._window_bytes = window_bytes
        self._rate = rate
        self._remains = remains
        self._unwritten_bytes = 0
        self._pending = 0
        self._is_last = False
        self._is_feeding = True
        self._wants = Wants()
        self._deltas = DeltaAsks()
        self._stretches: deque[Stretch] = deque()
        self._works = Works()
        self._unbased = 0

    def limit(self, window_bytes: int, delta_files: int) -> None:
        """From now on have at most ``window_bytes`` wanted and not written.

        And have at most ``delta_files`` large files made at once with the help of old ones: each of
        these has itself and one or two old files open.
        """
        self._window_bytes = window_bytes
        self._works.most = delta_files

    @property
    def is_done(self) -> bool:
        """All files are in place, and there are no more."""
        return self._is_last and not self._pending

    @property
    def has_pending(self) -> bool:
        """Files that were added are not all in place."""
        return bool(self._pending)

    @property
    def has_ready(self) -> bool:
        """Something could be handed to a session now."""
        return bool(self._wants or self._deltas.next or self._stretches)

    # --- what sessions take, and give back --------------------------------------------------

    def take_ask(self) -> Ask | None:
        """Return what to ask next. What deltas will hold counts as unwritten from now on."""
        if self._stretches and not self._deltas.is_full:
            count = min(len(self._stretches), MAX_ASK_ITEMS)
            return RecipeAsk(tuple([self._stretches.popleft() for _ in range(count)]))
        if (ask := self._deltas.next) is not None and self._has_room(ask.size):
            self._unwritten_bytes += ask.size
            self._deltas.take()
            self._sign_gaps()
            return ask
        return None

    def take_unit(self, session: int, most: int = PIECE_BYTES) -> Unit | None:
        """Return what ``session`` is to want next, of some ``most`` bytes at most.

        It counts as unwritten from now on.
        """
        room = max(self._window_bytes - self._unwritten_bytes, 0)
        is_idle = not self._unwritten_bytes
        unit = self._wants.take(session, room, most=most, is_idle=is_idle)
        if unit is not None:
            self._unwritten_bytes += unit.size
            self._feed()
        return unit

    def give_back(self, units: Sequence[Unit], asks: Sequence[Ask]) -> None:
        """Take back what a session has not brought; another will."""
        for ask in reversed(asks):
            self._unwritten_bytes -= ask.size
            if isinstance(ask, RecipeAsk):
                self._ask_again(ask.stretches)
            else:
                self._deltas.give_back(ask)
        self._unwritten_bytes -= sum(unit.size for unit in units)
        self._wants.give_back(units)

    def forget(self, session: int) -> None:
        """Let others give what only ``session`` might: it is gone."""
        self._wants.forget(session)

    def drop(self, digest: Digest) -> bool:
        """Have the files of this content passed over, which nobody has any more; say if there were any.

        Small files that a session is to bring already, and large ones of which all has come, are left
        to come to their end, and not counted.
        """
        works = self._works.drop(digest)
        for work in works:
            work.is_passed_over = True
            self._pass_over_idle(work)
        self._stretches = deque(one for one in self._stretches if not one.work.is_passed_over)
        gaps = self._deltas.drop(digest)
        small = self._wants.drop(digest) + [gap.file for gap in gaps if gap.work is None]
        if small:
            self.effects.append(PassOver(tuple(small)))
        self._begin_works()
        self._sign_gaps()  # others may have waited for those that were signed
        return bool(works or small)

    def take_recipes(self, ask: RecipeAsk, payload: Buffer) -> None:
        """Take the answer to an ask.

        Raises:
            MalformedMessage: it is none. The ask is still to be given back.
        """
        asked = [(stretch.offset, stretch.end, stretch.level) for stretch in ask.stretches]
        found = recipe.unpack(payload, asked)
        self._ask_again(ask.stretches[len(found) :])
        for stretch, parts in zip(ask.stretches, found, strict=False):
            if stretch.work.is_passed_over:
                continue
            if stretch.work.index is None:
                stretch.work.pages.append((stretch, parts))
            else:
                self._plan(stretch, parts)
        self._sign_gaps()

    def take_deltas(self, session: int, ask: DeltaAsk, data: Coded) -> None:
        """Take the answer to an ask."""
        self.effects.append(RebuildGaps(session, ask.gaps, data))

    # --- what the disk has done -------------------------------------------------------------

    def add(self, files: Sequence[WantedFile], *, is_last: bool, done: int = 0) -> None:
        """Take more files to fetch, none of them empty; answers ``NeedFiles``.

        ``done`` others are in place already.
        """
        self.files_done += done
        self._is_feeding = False
        self._is_last = is_last
        self._pending += len(files)
        small: list[WantedFile] = []
        rate = self._rate()
        for file in files:
            if file.size > SMALL_BYTES or (file.replaces and file.size > DELTA_BYTES):
                self._wants.add_small(small)  # those that are listed first come first
                small.clear()
                self._add_large(file)
            elif file.replaces and delta_pays(file.size, file.replaces, rate):
                end = min(file.replaces, 2 * DELTA_BYTES)
                self._deltas.add(Gap(file, None, 0, file.size, (), (Old(0, 0, end),)))
            else:
                small.append(file)
        self._wants.add_small(small)
        self._wants.end_batch()
        self._sign_gaps()
        self._begin_works()
        self._feed()

    def stored(self, unit: Unit) -> None:
        """Take note that a unit is written."""
        self._unwritten_bytes -= unit.size
        if isinstance(unit, Batch):
            self._settle(len(unit.files))
        else:
            self._put(unit.work, unit.size)

    def passed_over(self, count: int) -> None:
        """Take note that files are left as they are."""
        self._pending -= count
        self._feed()

    def based(self, works: Sequence[Based]) -> None:
        """Take note of what the old files have."""
        self._unbased -= len(works)
        for work, has, remaining in works:
            work.readers -= 1
            if work.is_passed_over:
                self._pass_over_idle(work)
                continue
            work.index = has if has is not None else Index([])
            if remaining:
                self._take_remaining(work, remaining)
            elif work.remains is not None:
                self._ask_recipe(work)
            pages, work.pages = work.pages, []
            for stretch, parts in pages:
                self._plan(stretch, parts)
        self._sign_gaps()

    def copied(self, work: Work, size: int) -> None:
        """Take note that ``size`` bytes were copied."""
        work.copied += size
        self._put(work, size)

    def signed(self, gaps: Sequence[Gap], key: int, pieces: Sequence[Pieces | None]) -> None:
        """Take the signatures of what the gaps replace; None where that is not there any more."""
        for gap in self._deltas.signed(gaps, key, pieces):
            self._want_gap(gap)
        for work in [gap.work for gap in gaps if gap.work is not None]:
            work.readers -= 1
            self._pass_over_idle(work)
        self._sign_gaps()

    def rebuilt(self, gaps: Sequence[Gap], wrong: Sequence[Gap]) -> None:
        """Take note that gaps are written, but for those that did not turn out right."""
        for gap in gaps:
            self._unwritten_bytes -= gap.size
            gap.pieces = None
            if gap in wrong:
                self._want_gap(gap)
            elif gap.work is None:
                self._settle(1)
            else:
                self._put(gap.work, gap.size)

    def finished(self, work: Work) -> None:
        """Take note that a large file is in place."""
        self._works.end(work)
        self._begin_works()
        self._settle(1)

    def corrupt(self, work: Work) -> int | None:
        """Take note that a large file was not what it should be, and has been removed.

        It is fetched once more: without old files if they may have been wrong, else by one
        session alone, so that it will be known who gives wrong bytes. Returns the session for
        which it is known now; the caller leaves it.
        """
        self._works.end(work)
        self._begin_works()
        again = Work(work.file, is_delta=False)
        self._works.add(again)
        self._wants.add_first(Piece(again, 0, work.file.size))
        if work.is_delta:
            return None
        if len(work.givers) == 1:
            return min(work.givers)
        again.only = min(work.givers - self._wants.gone, default=None)
        return None

    # --- files --------------------------------------------------------------------------------

    def _add_large(self, file: WantedFile) -> None:
        remains = self._remains.get(file.digest)
        if remains is not None and not remains.may_be_of(file.size):
            remains = None
        work = Work(file, is_delta=bool(file.replaces), remains=remains)
        self._works.add(work)
        if not work.is_delta:
            self._wants.add(Piece(work, 0, file.size))

    def _begin_works(self) -> None:
        for works in self._works.begin():
            for work in works:
                work.readers += 1
                if work.remains is None:
                    self._ask_recipe(work)
            self._unbased += len(works)
            self.effects.append(CutBases(tuple(works)))
        for work in self._works.take_plain():
            self._wants.add(Piece(work, 0, work.file.size))

    def _pass_over_idle(self, work: Work) -> None:
        """Have a large file passed over, unless its old ones are being read."""
        if work.is_passed_over and not work.readers:
            self.effects.append(PassOver((work.file,)))

    def _put(self, work: Work, size: int) -> None:
        work.left -= size
        if not work.left and not work.is_passed_over:
            self.effects.append(FinishFile(work))

    def _settle(self, count: int) -> None:
        self._pending -= count
        self.files_done += count
        self._feed()

    def _feed(self) -> None:
        ready = len(self._wants) + len(self._deltas) + self._works.waiting
        is_low = ready < AHEAD_UNITS and self._pending < MAX_PENDING_FILES
        if is_low and not self._is_last and not self._is_feeding:
            self._is_feeding = True
            self.effects.append(NeedFiles())

    # --- room ---------------------------------------------------------------------------------

    def _has_room(self, size: int) -> bool:
        # An idle link always gets something, or what is larger than the window would never come.
        return self._unwritten_bytes + size <= self._window_bytes or not self._unwritten_bytes

    # --- recipes ------------------------------------------------------------------------------

    def _ask_recipe(self, work: Work) -> None:
        level = Level.SEGMENTS if work.file.size > SEGMENTS_BYTES else Level.CHUNKS
        self._stretches.append(Stretch(work, 0, work.file.size, level))

    def _ask_again(self, stretches: Sequence[Stretch]) -> None:
        left = [one for one in stretches if not one.work.is_passed_over]
        self._stretches.extendleft(reversed(left))

    def _take_remaining(self, work: Work, copies: Sequence[Copy]) -> None:
        self._copy(work, copies)
        for offset, size in between(copies, work.file.size):
            self._add_gap(work, offset, size, cut_evenly(size))

    def _copy(self, work: Work, copies: Sequence[Copy]) -> None:
        work.note_copies(copies)
        for some in matching.sliced(copies, COPY_BYTES):
            self.effects.append(CopyRanges(work, tuple(some)))

    def _plan(self, stretch: Stretch, parts: Recipe) -> None:
        work, _, end, level = stretch
        assert work.index is not None
        found = matching.match(parts, level, work.index)
        if level is Level.CHUNKS:
            work.note(parts)
        else:
            work.note_taken(found.copies)
        if found.copies:
            self._copy(work, found.copies)
        if parts.end < end:
            self._stretches.append(Stretch(work, parts.end, end, level))
        for missing in found.misses:
            if level is Level.SEGMENTS:
                self._stretches.append(Stretch(work, missing.start, missing.end, Level.CHUNKS))
            else:
                size = missing.end - missing.start
                self._add_gap(work, missing.start, size, cut_up(missing))

    def _add_gap(self, work: Work, offset: int, size: int, parts: Sequence[GapPart]) -> None:
        assert work.index is not None
        old = replaced(offset, size, work.copies, work.index.sizes)
        if not delta_pays(size, sum(one.end - one.start for one in old), self._rate()):
            self._wants.add(Piece(work, offset, size))
            return
        for at, length, some in parts:
            near = tuple([narrowed(one, at, length, size) for one in old])
            self._deltas.add(Gap(work.file, work, offset + at, length, some, near))

    def _want_gap(self, gap: Gap) -> None:
        if gap.work is None:
            self._wants.add(Batch((gap.file,), gap.size))
        elif not gap.is_passed_over:
            self._wants.add(Piece(gap.work, gap.offset, gap.size))

    def _sign_gaps(self) -> None:
        """Have gaps signed; a few wait while there may be more in old files."""
        for effect in self._deltas.to_sign(more_come=bool(self._unbased)):
            for gap in effect.gaps:
                if gap.work is not None:
                    gap.work.readers += 1
            self.effects.append(effect)
