"""Runs a Fetch and the sessions that work for it: one pull, from any number of replicas."""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from itertools import islice
from typing import Final, ParamSpec, TypeVar, assert_never

from filesync.digest import Digest
from filesync.disk.updating.incoming import WantedFile
from filesync.errors import (
    ContentCorrupt,
    FilesyncError,
    PeerError,
    StoreError,
    Unavailable,
)
from filesync.transfer.coding.recipecache import RecipeCache
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.flow import Flow
from filesync.transfer.receive.decoding import Decoding
from filesync.transfer.receive.fetch import COPY_BYTES, Fetch
from filesync.transfer.receive.landing_disk import Landing, Update
from filesync.transfer.receive.receiver import Receiver, State
from filesync.transfer.receive.session_zmq import Event, Incoming, Session
from filesync.transfer.receive.units import (
    Batch,
    CopyRanges,
    CutBases,
    Effect,
    FinishFile,
    NeedFiles,
    Piece,
    RebuildGaps,
    SignGaps,
    StoreBatch,
    StorePiece,
)
from filesync.transfer.replica import Replica
from filesync.transfer.stats import PullStats, ReplicaStats
from filesync.transfer.timeouts import Timeouts
from filesync.transfer.wire import Buffer

log = logging.getLogger(__name__)

FILES_AT_ONCE: Final = 4096
MAX_SESSIONS: Final = 4
"""Replicas that serve one pull at once."""
LAGGARD_S: Final = 2.0
"""A session that keeps others idle for longer, and is much slower than they are, is left."""
LAGGARD_TIMES: Final = 4.0
_LOOK_S: Final = 0.5

P = ParamSpec("P")
T = TypeVar("T")
Connect = Callable[[Replica], Awaitable[Channel]]
Turn = Callable[[], Awaitable[Event]]
Job = Callable[[], Event]
"""What a thread does in a turn, together with others."""
Feed = Callable[[], Awaitable[tuple[Sequence[WantedFile], bool]]]
"""Returns what more is wanted, which may be nothing yet, and whether that is all."""


class Pull:
    """Fills one update from ``replicas``.

    Args:
        update: prepared; where the files go.
        replicas: where they may be had, best first.
        tree: what the replicas' offers must be.
        connect: dials a replica, or waits until it has dialled us.
        flow: what the replicas are asked to keep to.
        stats: counted into while it runs.
        on_progress: called after each write.
        feed: says what is wanted; without it, ``update`` does.
        recipes: of what was put together here.
    """

    def __init__(
        self,
        update: Update,
        replicas: Sequence[Replica],
        *,
        tree: Digest,
        connect: Connect,
        flow: Flow,
        timeouts: Timeouts,
        window_bytes: int,
        pool: Executor,
        stats: PullStats,
        on_progress: Callable[[], None],
        feed: Feed | None = None,
        recipes: RecipeCache,
    ) -> None:
        self._replicas = list(replicas)
        self._tree = tree
        self._connect = connect
        self._flow = flow
        self._timeouts = timeouts
        self._pool = pool
        self._stats = stats
        self._on_progress = on_progress
        self._feed_from = feed
        self._fetch = Fetch(window_bytes=window_bytes, rate=self._rate)
        self._landing = Landing(update, recipes)
        self._files = update.wanted()
        self._loop = asyncio.get_running_loop()
        self._inbox: asyncio.Queue[Event] = asyncio.Queue()
        # What touches the update, in order; None ends it. The window bounds what is in here.
        self._disk: asyncio.Queue[Turn | None] = asyncio.Queue()
        # What the next of these turns writes, all at once: a hop to a thread costs 50 us.
        self._pieces: list[tuple[StorePiece, asyncio.Future[Buffer]]] = []
        self._jobs: list[Job] = []
        self._copies: deque[CopyRanges] = deque()
        self._beside: set[asyncio.Task[None]] = set()
        self._openers: set[asyncio.Task[None]] = set()
        self._opening = 0
        self._sessions: dict[int, Session] = {}
        self._decoded = Decoding(pool).decoded
        self._error: FilesyncError = Unavailable("nobody is known to have this tree")

    async def run(self) -> None:
        """Fetch everything. Nobody is asked for anything when nothing is wanted.

        Raises:
            Unavailable: no replica could give all of it; the last one's reason.
            PeerError: as above, and the reason was a breach of the protocol.
            StoreError: this disk.
        """
        writer = asyncio.create_task(self._take_turns())
        try:
            self._perform()
            while not self._fetch.is_done:
                await self._step()
            for session in list(self._sessions.values()):
                self._leave(session)
        except asyncio.CancelledError:
            for session in list(self._sessions.values()):
                self._leave(session, "cancelled", "no longer wanted")
            raise
        except FilesyncError as exc:
            for session in list(self._sessions.values()):
                self._leave(session, exc.code, str(exc))
            raise
        finally:
            await self._stop(writer)

    async def _step(self) -> None:
        try:
            async with asyncio.timeout_at(self._deadline()):
                event = await self._inbox.get()
        except TimeoutError:
            self._expire()
        else:
            event()
            while not self._inbox.empty():
                self._inbox.get_nowait()()
        self._leave_laggards()
        self._advance()
        self._perform()
        self._open_more()

    async def _stop(self, writer: asyncio.Task[None]) -> None:
        """End the writer after the turn that it is in, then end what is half written."""
        for task in self._openers:
            task.cancel()
        while not self._disk.empty():
            self._disk.get_nowait()
        self._disk.put_nowait(None)
        await asyncio.wait([writer, *self._beside, *self._openers])
        await self._in_thread(self._landing.abort)

    # --- sessions -----------------------------------------------------------------------------

    def _open_more(self) -> None:
        """Ask one more replica for help while there is more to do than the sessions take."""
        busy = len(self._sessions) + self._opening
        is_needed = not busy or (self._fetch.has_ready and not self._opening)
        if not self._fetch.has_pending or not is_needed or busy >= MAX_SESSIONS:
            return
        if not self._replicas:
            if not busy:
                raise self._error
            return
        self._opening += 1
        task = asyncio.create_task(self._open(self._replicas.pop(0)))
        self._openers.add(task)
        task.add_done_callback(self._openers.discard)

    async def _open(self, replica: Replica) -> None:
        stats = ReplicaStats()
        self._stats.replicas.append(stats)
        try:
            channel = await self._connect(replica)
        except (Unavailable, PeerError) as exc:
            self._inbox.put_nowait(partial(self._miss, replica, stats, exc))
        except FilesyncError as exc:
            self._inbox.put_nowait(partial(_fail, exc))
        else:
            self._inbox.put_nowait(partial(self._join, replica, stats, channel))

    def _miss(self, replica: Replica, stats: ReplicaStats, error: FilesyncError) -> None:
        self._opening -= 1
        self._note_failed(replica, stats, error)

    def _join(self, replica: Replica, stats: ReplicaStats, channel: Channel) -> None:
        self._opening -= 1
        machine = Receiver(
            self._fetch,
            secrets.randbits(62) + 1,
            replica.token,
            self._tree,
            now=self._loop.time(),
            flow=self._flow.to(replica.address),
            opening_s=self._timeouts.opening_s,
            stall_s=self._timeouts.stall_s,
        )
        session = Session(
            machine, channel, replica, stats, self._inbox, self._on_message, self._fail_session
        )
        self._sessions[machine.session] = session
        session.send(machine.start())

    def _on_message(self, session: Session, message: Incoming, payload: Buffer) -> None:
        session.inbox_bytes -= len(payload)
        if session.machine.state is State.CLOSED:
            return
        try:
            session.machine.receive(message, payload, self._loop.time())
        except (Unavailable, PeerError) as exc:
            self._fail_session(session, exc)
        session.note()

    def _fail_session(self, session: Session, error: FilesyncError) -> None:
        if session.machine.state is not State.CLOSED:
            self._leave(session, error.code, str(error))
            self._note_failed(session.replica, session.stats, error)

    def _note_failed(self, replica: Replica, stats: ReplicaStats, error: FilesyncError) -> None:
        stats.error = str(error)
        self._error = error
        if self._replicas or self._sessions or self._opening:
            where = replica.address or "a peer that dials us"
            log.warning("replica failed: replica=%s reason=%s", where, error)

    def _leave(self, session: Session, code: str = "", detail: str = "") -> None:
        session.end(session.machine.end(code, detail))
        del self._sessions[session.machine.session]

    def _leave_laggards(self) -> None:
        """Leave a session that alone keeps the others idle."""
        sessions = self._sessions.values()
        idle = [
            one.machine.link.bytes_per_s
            for one in sessions
            if one.machine.is_idle and one.machine.state is State.MOVING
        ]
        if not idle or self._fetch.has_ready:
            return
        now = self._loop.time()
        for session in list(sessions):
            machine = session.machine
            if machine.is_idle:
                continue
            best = max(idle)
            need_s = machine.on_wire_bytes / best if best else 0.0
            if machine.seconds_left(now) > max(LAGGARD_S, LAGGARD_TIMES * need_s):
                self._fail_session(session, Unavailable("it is much slower than the others"))

    def _advance(self) -> None:
        is_alone = len(self._sessions) == 1
        now = self._loop.time()
        # Room goes first to whoever has least to do, or the first replica would take all of it.
        for session in sorted(self._sessions.values(), key=_on_wire_bytes):
            if sent := session.machine.advance(now, is_alone=is_alone):
                session.send(sent)

    def _deadline(self) -> float | None:
        deadlines = [
            session.machine.deadline
            for session in self._sessions.values()
            if session.machine.deadline is not None
        ]
        if len(self._sessions) > 1:
            deadlines.append(self._loop.time() + _LOOK_S)
        return min(deadlines, default=None)

    def _expire(self) -> None:
        now = self._loop.time()
        for session in list(self._sessions.values()):
            try:
                session.machine.expire(now)
            except Unavailable as exc:
                self._fail_session(session, exc)

    def _rate(self) -> float:
        rates = [session.machine.link.bytes_per_s for session in self._sessions.values()]
        return max(rates, default=0.0)

    # --- effects ------------------------------------------------------------------------------

    def _perform(self) -> None:
        effects = self._fetch.effects
        while effects:
            self._begin(effects.popleft())

    def _begin(self, effect: Effect) -> None:
        match effect:
            case NeedFiles() if self._feed_from is not None:
                # It may have to wait; what came before is written meanwhile.
                self._run_beside(self._feed_by(self._feed_from), self._openers)
            case NeedFiles():
                self._disk.put_nowait(self._feed)
            case StoreBatch():
                plain = [self._decoded(effect.session, part) for part in effect.parts]
                self._disk.put_nowait(partial(self._store_batch, effect, plain))
            case StorePiece():
                self._queue_piece(effect)
            case RebuildGaps():
                one = self._decoded(effect.session, effect.data)
                self._disk.put_nowait(partial(self._rebuild, effect, one))
            case CopyRanges():
                self._queue_copies(effect)
            case FinishFile():
                self._queue_job(partial(self._finish_file, effect))
            case CutBases():
                self._run_beside(self._cut_bases(effect))
            case SignGaps():
                self._run_beside(self._sign(effect))
            case _:
                assert_never(effect)

    def _queue_piece(self, effect: StorePiece) -> None:
        self._pieces.append((effect, self._decoded(effect.session, effect.data)))
        if len(self._pieces) == 1:
            self._disk.put_nowait(self._store_pieces)

    def _queue_copies(self, effect: CopyRanges) -> None:
        self._copies.append(effect)
        if len(self._copies) == 1:
            self._disk.put_nowait(self._copy_some)

    def _queue_job(self, job: Job) -> None:
        self._jobs.append(job)
        if len(self._jobs) == 1:
            self._disk.put_nowait(self._do_jobs)

    async def _take_turns(self) -> None:
        while (turn := await self._disk.get()) is not None:
            try:
                event = await turn()
            except Exception as exc:  # the top of a task: the driver ends with it
                event = partial(_fail, exc)
            self._inbox.put_nowait(event)

    def _run_beside(
        self, work: Awaitable[Event], tasks: "set[asyncio.Task[None]] | None" = None
    ) -> None:
        async def run() -> None:
            try:
                event = await work
            except OSError as exc:
                event = partial(_fail, StoreError(f"an old file: {exc.strerror}"))
            except Exception as exc:  # the top of a task: the driver ends with it
                event = partial(_fail, exc)
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
        return partial(self._fetch.add, files, is_last=len(files) < FILES_AT_ONCE)

    async def _store_batch(
        self, effect: StoreBatch, plain: "list[asyncio.Future[Buffer]]"
    ) -> Event:
        try:
            parts = [await one for one in plain]
            await self._in_thread(self._landing.store_batch, effect.batch, parts)
        except PeerError as exc:
            return partial(self._refute, effect.session, exc, effect.batch)
        self._stats.content_bytes += effect.batch.size
        return partial(self._stored, effect)

    async def _store_pieces(self) -> Event:
        batch, self._pieces = self._pieces, []
        events: list[Event] = []
        stored: list[tuple[Piece, Buffer]] = []
        for effect, plain in batch:
            try:
                stored.append((effect.piece, await plain))
            except PeerError as exc:
                events.append(partial(self._refute, effect.session, exc, effect.piece))
            else:
                events.append(partial(self._stored, effect))
                self._stats.content_bytes += effect.piece.size
        await self._in_thread(self._landing.store_pieces, stored)
        return partial(_tell, events)

    def _stored(self, effect: StoreBatch | StorePiece) -> None:
        self._fetch.stored(effect.batch if isinstance(effect, StoreBatch) else effect.piece)
        self._note_progress()

    def _refute(self, session: int, error: PeerError, unit: Batch | Piece) -> None:
        """Take back what one session brought, and leave it."""
        self._fetch.give_back([unit], [])
        if session in self._sessions:
            self._fail_session(self._sessions[session], error)
        else:
            self._error = error

    async def _rebuild(self, effect: RebuildGaps, plain: "asyncio.Future[Buffer]") -> Event:
        try:
            data = await plain
            wrong = await self._in_thread(self._landing.rebuild, effect.gaps, data)
        except PeerError as exc:
            return partial(self._refute_gaps, effect, exc)
        self._stats.content_bytes += effect.data.raw_bytes
        size = sum(gap.size for gap in effect.gaps)
        self._stats.copied_bytes += max(size - effect.data.raw_bytes, 0)

        def rebuilt() -> None:
            self._fetch.rebuilt(effect.gaps, wrong)
            self._note_progress()

        return rebuilt

    def _refute_gaps(self, effect: RebuildGaps, error: PeerError) -> None:
        self._fetch.rebuilt(effect.gaps, effect.gaps)
        if session := self._sessions.get(effect.session):
            self._fail_session(session, error)

    async def _do_jobs(self) -> Event:
        jobs, self._jobs = self._jobs, []
        return partial(_tell, await self._in_thread(lambda: [job() for job in jobs]))

    async def _copy_some(self) -> Event:
        """Copy for one turn; what has come meanwhile is written before the next."""
        some = [self._copies.popleft()]
        size = some[0].size
        while self._copies and size + self._copies[0].size <= COPY_BYTES:
            some.append(self._copies.popleft())
            size += some[-1].size
        if self._copies:
            self._disk.put_nowait(self._copy_some)
        return partial(_tell, await self._in_thread(lambda: [self._copy(one) for one in some]))

    def _copy(self, effect: CopyRanges) -> Event:
        self._landing.copy(effect.work, effect.copies)

        def copied() -> None:
            self._stats.copied_bytes += effect.size
            self._fetch.copied(effect.work, effect.size)
            self._note_progress()

        return copied

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
            self._error = error
            if session := self._sessions.get(guilty):
                self._fail_session(session, error)

    async def _cut_bases(self, effect: CutBases) -> Event:
        based = await self._in_thread(
            lambda: [(work, self._landing.cut_bases(work)) for work in effect.works]
        )
        return partial(self._fetch.based, based)

    async def _sign(self, effect: SignGaps) -> Event:
        key, pieces = await self._in_thread(self._landing.sign, effect.gaps)
        return partial(self._fetch.signed, effect.gaps, key, pieces)

    def _note_progress(self) -> None:
        self._stats.files = self._fetch.files_done
        self._on_progress()

    async def _in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._loop.run_in_executor(self._pool, partial(call, *args, **kwargs))


def _on_wire_bytes(session: Session) -> int:
    return session.machine.on_wire_bytes


def _tell(events: Sequence[Event]) -> None:
    for event in events:
        event()


def _fail(error: Exception) -> None:
    raise error
