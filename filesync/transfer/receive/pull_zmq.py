"""Runs a Fetch and the sessions that work for it: one pull, from any number of replicas."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Final

from filesync.digest import Digest
from filesync.errors import (
    ContentCorrupt,
    FilesyncError,
    PeerError,
    SourceChanged,
    Unavailable,
)
from filesync.process.entropy import random_bits
from filesync.transfer.coding.recipecache import RecipeCache
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.errors import Refused
from filesync.transfer.flow import Flow
from filesync.transfer.receive.candidates import Candidates
from filesync.transfer.receive.effects import Effects, Feed
from filesync.transfer.receive.fetch import Fetch
from filesync.transfer.receive.landing_disk import Update
from filesync.transfer.receive.receiver import Receiver, State
from filesync.transfer.receive.session_zmq import Event, Session, fail
from filesync.transfer.receive.told import Told
from filesync.transfer.replica import Replica
from filesync.transfer.stats import PullStats, ReplicaStats
from filesync.transfer.threads import until_done
from filesync.transfer.timeouts import Timeouts
from filesync.transfer.wire import Buffer, FromSender

log = logging.getLogger(__name__)

MAX_SESSIONS: Final = 4
"""Replicas that serve one pull at once."""
LAGGARD_S: Final = 2.0
"""A session that keeps others idle for longer, and is much slower than they are, is left."""
LAGGARD_TIMES: Final = 4.0
_LOOK_S: Final = 0.5

Connect = Callable[[Replica, bool], Awaitable[Channel]]
"""(replica, it is the only one) -> the connection to it; only one need not have answered yet."""


class Pull:
    """Fills one update from ``replicas``.

    Args:
        update: prepared; where the files go.
        replicas: where they may be had, best first.
        tree: what the replicas' offers must be.
        standby: replicas that are asked when none of the others is left, or they are slow.
        connect: dials a replica, or waits until it has dialled us.
        flow: what the replicas are asked to keep to.
        stats: counted into while it runs.
        on_progress: called after each write.
        feed: says what is wanted; without it, ``update`` does.
        told: how to make contents out of old files that are here: they need not be asked for.
        recipes: of what was put together here.
    """

    def __init__(
        self,
        update: Update,
        replicas: Sequence[Replica],
        *,
        tree: Digest,
        standby: Sequence[Replica],
        connect: Connect,
        flow: Flow,
        timeouts: Timeouts,
        window_bytes: int,
        pool: Executor,
        stats: PullStats,
        on_progress: Callable[[], None],
        feed: Feed | None,
        told: Told | None,
        recipes: RecipeCache,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._candidates = Candidates(
            replicas, standby, now=self._loop.time(), spread=random_bits(10) / 1024
        )
        self._on_trial: Replica | None = None
        self._is_only = len(self._candidates) == 1
        self._update = update
        self._tree = tree
        self._connect = connect
        self._flow = flow
        self._timeouts = timeouts
        self._stats = stats
        told = told or Told()
        self._fetch = Fetch(window_bytes=window_bytes, rate=self._rate, remains=told.remains)
        self._inbox: asyncio.Queue[Event] = asyncio.Queue()
        self._effects = Effects(
            self._fetch,
            update,
            self._inbox,
            pool=pool,
            stats=stats,
            feed=feed,
            edits=told.edits,
            recipes=recipes,
            blame=self._blame,
            on_progress=on_progress,
        )
        self._openers: set[asyncio.Task[None]] = set()
        self._opening = 0
        self._sessions: dict[int, Session] = {}
        self._error: FilesyncError = Unavailable("nobody is known to have this tree")

    def limit(self, window_bytes: int, delta_files: int) -> None:
        """Bound what is under way from now on; see ``Fetch.limit``."""
        self._fetch.limit(window_bytes, delta_files)

    async def run(self) -> None:
        """Fetch everything. Nobody is asked for anything when nothing is wanted.

        Raises:
            Unavailable: no replica could give all of it; the last one's reason.
            PeerError: as above, and the reason was a breach of the protocol.
            StoreError: this disk.
        """
        try:
            self._effects.perform()
            while not self._fetch.is_done:
                await self._step()
        finally:
            for session in list(self._sessions.values()):
                self._leave(session)
            await until_done(self._stop())

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
        self._try_another()
        self._advance()
        self._effects.perform()
        self._open_more()

    async def _stop(self) -> None:
        for task in self._openers:
            task.cancel()
        await asyncio.gather(*self._openers, return_exceptions=True)
        await self._effects.stop()

    # --- sessions -----------------------------------------------------------------------------

    def _open_more(self) -> None:
        """Ask one more replica for help while there is more to do than the sessions take."""
        busy = len(self._sessions) + self._opening
        is_needed = not busy or (self._fetch.has_ready and not self._opening)
        if not self._fetch.has_pending or not is_needed or busy >= MAX_SESSIONS:
            return
        if replica := self._candidates.take(is_alone=not busy):
            self._begin(replica)
        elif not busy:
            raise self._error

    def _try_another(self) -> None:
        """Put a replica that stands by on trial beside the one that gives, or end its trial."""
        now = self._loop.time()
        if (replica := self._on_trial) is None:
            is_one = len(self._sessions) == 1 and not self._opening
            if is_one and (replica := self._candidates.take_on_trial(now, self._rate())):
                self._on_trial = replica
                self._begin(replica)
            return
        session = next((one for one in self._sessions.values() if one.replica is replica), None)
        if session is None:
            if not self._opening:
                self._on_trial = None
            return
        stays = self._candidates.stays(now, session.machine.content_bytes)
        if stays is None:
            return
        self._on_trial = None
        if not stays and len(self._sessions) > 1:
            self._leave(session)
            self._candidates.put_back(replica)

    def _begin(self, replica: Replica) -> None:
        self._opening += 1
        task = asyncio.create_task(self._open(replica))
        self._openers.add(task)
        task.add_done_callback(self._openers.discard)

    async def _open(self, replica: Replica) -> None:
        stats = ReplicaStats()
        self._stats.replicas.append(stats)
        try:
            channel = await self._connect(replica, self._is_only)
        except (Unavailable, PeerError) as exc:
            self._inbox.put_nowait(partial(self._miss, replica, stats, exc))
        except Exception as exc:  # the top of a task: the driver ends with it
            self._inbox.put_nowait(partial(fail, exc))
        else:
            self._inbox.put_nowait(partial(self._join, replica, stats, channel))

    def _miss(self, replica: Replica, stats: ReplicaStats, error: FilesyncError) -> None:
        self._opening -= 1
        self._note_failed(replica, stats, error)

    def _join(self, replica: Replica, stats: ReplicaStats, channel: Channel) -> None:
        self._opening -= 1
        machine = Receiver(
            self._fetch,
            random_bits(62) + 1,
            replica.token,
            self._tree,
            now=self._loop.time(),
            flow=self._flow.to(replica.address),
            is_only=self._is_only,
            is_greeted=channel.greeting is None,
            opening_s=self._timeouts.opening_s,
            stall_s=self._timeouts.stall_s,
            moved=lambda: sum(channel.moved()),
        )
        session = Session(
            machine, channel, replica, stats, self._inbox, self._on_message, self._fail_session
        )
        self._sessions[machine.session] = session
        session.send(machine.start())
        if channel.greeting is not None:
            greet = partial(self._note_greeted, machine)
            channel.greeting.add_done_callback(lambda _: self._inbox.put_nowait(greet))

    def _note_greeted(self, machine: Receiver) -> None:
        machine.greeted(self._loop.time())

    def _on_message(self, session: Session, message: FromSender, payload: Buffer) -> None:
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
            self._leave(session)
            if self._passes_over(error):
                self._candidates.put_back(session.replica)
            else:
                self._note_failed(session.replica, session.stats, error)

    def _passes_over(self, error: FilesyncError) -> bool:
        """Have what has changed where it is given left as it is here, if that may be.

        That shows where it is read, or in what comes of it.
        """
        path = b""
        if isinstance(error, ContentCorrupt) or (
            isinstance(error, Refused) and error.reason == SourceChanged.code
        ):
            path = error.path
        digest = self._update.content_at(path) if path else None
        return digest is not None and self._fetch.drop(digest)

    def _blame(self, number: int, error: PeerError) -> None:
        self._error = error
        if session := self._sessions.get(number):
            self._fail_session(session, error)

    def _note_failed(self, replica: Replica, stats: ReplicaStats, error: FilesyncError) -> None:
        stats.error = str(error)
        self._error = error
        if len(self._candidates) or self._sessions or self._opening:
            where = replica.address or "a peer that dials us"
            log.warning("replica failed: replica=%s reason=%s", where, error)

    def _leave(self, session: Session) -> None:
        session.end(session.machine.end())
        del self._sessions[session.machine.session]

    def _leave_laggards(self) -> None:
        """Leave a session that alone keeps the others idle."""
        sessions = self._sessions.values()
        idle = [
            one.machine.coming.bytes_per_s
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
        elif (
            (try_at_s := self._candidates.try_at_s) is not None
            and self._sessions
            and not self._opening  # till then nobody is tried, however long it is due
        ):
            deadlines.append(try_at_s)
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


def _on_wire_bytes(session: Session) -> int:
    return session.machine.on_wire_bytes
