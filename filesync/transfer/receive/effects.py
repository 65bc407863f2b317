"""What a pull's fetch wants done, done: contents made plain, written, copied, proved, cut and signed."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from itertools import islice
from typing import Final, ParamSpec, TypeVar, assert_never

from filesync.digest import Digest
from filesync.disk.updating.incoming import WantedFile
from filesync.errors import ContentCorrupt, PeerError, StoreError
from filesync.transfer.coding.edit import Edit
from filesync.transfer.coding.recipecache import RecipeCache
from filesync.transfer.receive.copying import Copying
from filesync.transfer.receive.decoding import Decoding
from filesync.transfer.receive.fetch import Fetch
from filesync.transfer.receive.landing_disk import Landing, Update
from filesync.transfer.receive.session_zmq import Event, fail
from filesync.transfer.receive.units import (
    Batch,
    CopyRanges,
    CutBases,
    Effect,
    FinishFile,
    NeedFiles,
    PassOver,
    Piece,
    RebuildGaps,
    SignGaps,
    StoreBatch,
    StorePiece,
)
from filesync.transfer.stats import PullStats
from filesync.transfer.wire import Buffer

FILES_AT_ONCE: Final = 4096
BATCHES_AT_ONCE: Final = 4
"""Written in one turn of the disk, so that credit goes back while there is more to write."""
LARGE_AT_ONCE: Final = 8
"""Large files written to in one turn, each of which is open until it is finished."""

P = ParamSpec("P")
T = TypeVar("T")
Turn = Callable[[], Awaitable[Event]]
Feed = Callable[[], Awaitable[tuple[Sequence[WantedFile], bool]]]
"""Returns what more is wanted, which may be nothing yet, and whether that is all."""
Blame = Callable[[int, PeerError], None]
"""Leaves a session that brought what is wrong, if it is still there."""


class Effects:
    """Performs the effects of ``fetch`` on ``update``, and puts what came of each into ``inbox``.

    Args:
        feed: says what is wanted; without it, ``update`` does.
        edits: make some of what ``update`` wants out of old contents, so that nobody is asked for it.
        recipes: of what was put together here.
        blame: called when it turns out that a session brought something wrong.
        on_progress: called after each write.
    """

    def __init__(
        self,
        fetch: Fetch,
        update: Update,
        inbox: asyncio.Queue[Event],
        *,
        pool: Executor,
        stats: PullStats,
        feed: Feed | None,
        edits: Mapping[Digest, Edit],
        recipes: RecipeCache,
        blame: Blame,
        on_progress: Callable[[], None],
    ) -> None:
        self._fetch = fetch
        self._inbox = inbox
        self._pool = pool
        self._stats = stats
        self._feed_from = feed
        self._edits = edits
        self._blame = blame
        self._on_progress = on_progress
        self._landing = Landing(update, recipes)
        self._files = update.wanted()
        self._decoded = Decoding(pool).decoded
        # What touches the update, in order; None ends it. The window bounds what is in here.
        self._disk: asyncio.Queue[Turn | None] = asyncio.Queue()
        # What the next of these turns writes, all at once: a hop to a thread costs 50 us.
        self._batches: list[tuple[StoreBatch, list[asyncio.Future[Buffer]]]] = []
        self._pieces: list[tuple[StorePiece, asyncio.Future[Buffer]]] = []
        self._finishing: list[FinishFile] = []
        self._copies = Copying()
        self._beside: set[asyncio.Task[None]] = set()
        self._feeding: set[asyncio.Task[None]] = set()
        self._writer = asyncio.create_task(self._take_turns())

    def perform(self) -> None:
        """Begin whatever the fetch wants done now."""
        effects = self._fetch.effects
        while effects:
            self._begin(effects.popleft())

    async def stop(self) -> None:
        """End after the turn that is being taken, then end what is half written.

        Nothing is performed after that.
        """
        # What it holds of streams is large, and this is held until Python looks for cycles.
        del self._decoded
        for task in self._feeding:
            task.cancel()
        while not self._disk.empty():
            self._disk.get_nowait()
        self._disk.put_nowait(None)
        await asyncio.wait([self._writer, *self._beside, *self._feeding])
        await self._in_thread(self._landing.abort)

    def _begin(self, effect: Effect) -> None:
        match effect:
            case NeedFiles():
                self._need_files()
            case StoreBatch():
                self._queue_batch(effect)
            case StorePiece():
                self._queue_piece(effect)
            case RebuildGaps():
                one = self._decoded(effect.session, effect.data)
                self._disk.put_nowait(partial(self._rebuild, effect, one))
            case PassOver():
                self._disk.put_nowait(partial(self._pass_over, effect))
            case CopyRanges():
                self._queue_copies(effect)
            case FinishFile():
                self._queue_finish(effect)
            case CutBases():
                self._run_beside(self._cut_bases(effect))
            case SignGaps():
                self._run_beside(self._sign(effect))
            case _:
                assert_never(effect)

    def _need_files(self) -> None:
        if self._feed_from is None:
            self._disk.put_nowait(self._feed)
        else:  # it may have to wait; what came before is written meanwhile
            self._run_beside(self._feed_by(self._feed_from), self._feeding)

    def _queue_batch(self, effect: StoreBatch) -> None:
        plain = [self._decoded(effect.session, part) for part in effect.parts]
        self._batches.append((effect, plain))
        if len(self._batches) == 1:
            self._disk.put_nowait(self._store_batches)

    def _queue_piece(self, effect: StorePiece) -> None:
        self._pieces.append((effect, self._decoded(effect.session, effect.data)))
        if len(self._pieces) == 1:
            self._disk.put_nowait(self._store_pieces)

    def _queue_copies(self, effect: CopyRanges) -> None:
        self._copies.add(effect)
        if len(self._copies) == 1:
            self._disk.put_nowait(self._copy_some)

    def _queue_finish(self, effect: FinishFile) -> None:
        self._finishing.append(effect)
        if len(self._finishing) == 1:
            self._disk.put_nowait(self._finish_files)

    async def _take_turns(self) -> None:
        while (turn := await self._disk.get()) is not None:
            try:
                event = await turn()
            except Exception as exc:  # the top of a task: the driver ends with it
                event = partial(fail, exc)
            self._inbox.put_nowait(event)

    def _run_beside(
        self, work: Awaitable[Event], tasks: "set[asyncio.Task[None]] | None" = None
    ) -> None:
        async def run() -> None:
            try:
                event = await work
            except OSError as exc:
                event = partial(fail, StoreError(f"an old file: {exc.strerror}"))
            except Exception as exc:  # the top of a task: the driver ends with it
                event = partial(fail, exc)
            self._inbox.put_nowait(event)

        tasks = self._beside if tasks is None else tasks
        task = asyncio.create_task(run())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _feed_by(self, feed: Feed) -> Event:
        files, is_last = await feed()
        return partial(self._fetch.add, files, is_last=is_last)

    async def _feed(self) -> Event:
        files = await self._in_thread(lambda: list(islice(self._files, FILES_AT_ONCE)))
        is_last = len(files) < FILES_AT_ONCE
        told = [file for file in files if file.digest in self._edits] if self._edits else []
        if not told:
            return partial(self._fetch.add, files, is_last=is_last)
        made = await self._in_thread(self._landing.edit, told, self._edits)
        return partial(self._note_edited, files, made, is_last=is_last)

    def _note_edited(
        self, files: Sequence[WantedFile], made: Collection[WantedFile], *, is_last: bool
    ) -> None:
        for file in made:
            told = min(len(self._edits[file.digest].delta), file.size)
            self._stats.content_bytes += told
            self._stats.copied_bytes += file.size - told
        rest = [file for file in files if file not in made]
        self._fetch.add(rest, is_last=is_last, done=len(made))
        self._note_progress()

    async def _store_batches(self) -> Event:
        """Write what has come meanwhile, each batch proved and told of by itself."""
        some, self._batches = self._batches[:BATCHES_AT_ONCE], self._batches[BATCHES_AT_ONCE:]
        if self._batches:
            self._disk.put_nowait(self._store_batches)
        events: list[Event] = []
        plain: list[tuple[StoreBatch, list[Buffer]]] = []
        for effect, parts in some:
            try:
                plain.append((effect, [await part for part in parts]))
            except PeerError as exc:
                events.append(partial(self._refute, effect.session, exc, effect.batch))
        events += await self._in_thread(lambda: [self._store_batch(*one) for one in plain])
        return partial(_tell, events)

    def _store_batch(self, effect: StoreBatch, parts: Sequence[Buffer]) -> Event:
        try:
            self._landing.store_batch(effect.batch, parts)
        except PeerError as exc:
            return partial(self._refute, effect.session, exc, effect.batch)
        return partial(self._stored, effect)

    async def _store_pieces(self) -> Event:
        batch = self._take_pieces()
        if self._pieces:
            self._disk.put_nowait(self._store_pieces)
        events: list[Event] = []
        stored: list[tuple[Piece, Buffer]] = []
        for effect, plain in batch:
            try:
                data = await plain
            except PeerError as exc:
                events.append(partial(self._refute, effect.session, exc, effect.piece))
                continue
            events.append(partial(self._stored, effect))
            if not effect.piece.work.is_passed_over:
                stored.append((effect.piece, data))
        await self._in_thread(self._landing.store_pieces, stored)
        return partial(_tell, events)

    def _take_pieces(self) -> "list[tuple[StorePiece, asyncio.Future[Buffer]]]":
        """Return those that are to be written next: of few files, so that some are finished in between."""
        files: set[int] = set()
        end = len(self._pieces)
        for at, (effect, _) in enumerate(self._pieces):
            files.add(effect.piece.work.file.ticket)
            if len(files) > LARGE_AT_ONCE:
                end = at
                break
        taken, self._pieces = self._pieces[:end], self._pieces[end:]
        return taken

    def _stored(self, effect: StoreBatch | StorePiece) -> None:
        unit = effect.batch if isinstance(effect, StoreBatch) else effect.piece
        self._stats.content_bytes += unit.size
        self._fetch.stored(unit)
        self._note_progress()

    def _refute(self, session: int, error: PeerError, unit: Batch | Piece) -> None:
        """Take back what one session brought, and leave it."""
        self._fetch.give_back([unit], [])
        self._blame(session, error)

    async def _rebuild(self, effect: RebuildGaps, plain: "asyncio.Future[Buffer]") -> Event:
        try:
            data = await plain
            wrong = await self._in_thread(self._landing.rebuild, effect.gaps, data)
        except PeerError as exc:
            return partial(self._refute_gaps, effect, exc)
        size = sum(gap.size for gap in effect.gaps)
        # Deltas that found nothing to copy say so in some bytes more than they make.
        told = min(effect.data.raw_bytes, size)
        self._stats.content_bytes += told
        self._stats.copied_bytes += size - told

        def rebuilt() -> None:
            self._fetch.rebuilt(effect.gaps, wrong)
            self._note_progress()

        return rebuilt

    def _refute_gaps(self, effect: RebuildGaps, error: PeerError) -> None:
        self._fetch.rebuilt(effect.gaps, effect.gaps)
        self._blame(effect.session, error)

    async def _copy_some(self) -> Event:
        """Copy for one turn; what has come meanwhile is written before the next."""
        some = self._copies.take()
        if self._copies:
            self._disk.put_nowait(self._copy_some)
        left = [one for one in some if not one.work.is_passed_over]
        await self._in_thread(self._landing.copy, left)
        return partial(self._copied, left)

    def _copied(self, effects: Sequence[CopyRanges]) -> None:
        for effect in effects:
            self._stats.copied_bytes += effect.size
            self._fetch.copied(effect.work, effect.size)
        self._note_progress()

    async def _finish_files(self) -> Event:
        some, self._finishing = self._finishing, []
        return partial(_tell, await self._in_thread(lambda: list(map(self._finish_file, some))))

    def _finish_file(self, effect: FinishFile) -> Event:
        try:
            self._landing.finish(effect.work)
        except ContentCorrupt as exc:
            return partial(self._note_corrupt, effect, exc)
        return partial(self._finished, effect)

    def _finished(self, effect: FinishFile) -> None:
        self._fetch.finished(effect.work)
        self._note_progress()

    def _note_corrupt(self, effect: FinishFile, error: ContentCorrupt) -> None:
        guilty = self._fetch.corrupt(effect.work)
        if guilty is not None:
            self._blame(guilty, error)

    async def _pass_over(self, effect: PassOver) -> Event:
        await self._in_thread(self._landing.pass_over, effect.files)
        return partial(self._fetch.passed_over, len(effect.files))

    async def _cut_bases(self, effect: CutBases) -> Event:
        based = await self._in_thread(
            lambda: [self._landing.find_in_bases(work) for work in effect.works]
        )
        return partial(self._fetch.based, based)

    async def _sign(self, effect: SignGaps) -> Event:
        key, pieces = await self._in_thread(self._landing.sign, effect.gaps)
        return partial(self._fetch.signed, effect.gaps, key, pieces)

    def _note_progress(self) -> None:
        self._stats.files = self._fetch.files_done
        self._on_progress()

    async def _in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self._pool, partial(call, *args, **kwargs)
        )


def _tell(events: Sequence[Event]) -> None:
    for event in events:
        event()
