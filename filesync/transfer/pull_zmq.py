"""Runs a Receiver: one session that fetches what an update wants from one replica."""

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from typing import Final, ParamSpec, TypeVar, assert_never

from filesync.disk.update import BasisFile, WantedFile
from filesync.errors import ContentCorrupt, FilesyncError, StoreError, UnexpectedMessage
from filesync.transfer import codec
from filesync.transfer.channel_zmq import Channel
from filesync.transfer.landing_disk import Landing, Update
from filesync.transfer.receiver import (
    CopyRanges,
    Effect,
    Finish,
    FinishFile,
    NeedFiles,
    OpenBasis,
    Receiver,
    Send,
    Store,
)
from filesync.transfer.stats import PullStats
from filesync.transfer.wire import (
    MAX_OUTSTANDING_BYTES,
    Buffer,
    Close,
    Frame,
    Opened,
    Recipe,
    Refuse,
)

log = logging.getLogger(__name__)

FILES_AT_ONCE: Final = 1024
_MAX_INBOX: Final = 65_536

P = ParamSpec("P")
T = TypeVar("T")
Event = Callable[[float], list[Effect]]
"""What has happened, to be told to the machine with the time."""
Turn = Callable[[], Awaitable[Event | None]]


class Wanting:
    """The files of an update that are not in place yet, across replicas.

    What a replica that died has left is given out again before the rest.
    """

    def __init__(self, update: Update) -> None:
        self.update = update
        self._again: deque[WantedFile] = deque()
        self._rest: Iterator[WantedFile] = update.wanted()

    def is_any(self) -> bool:
        """Say whether anything is left. Blocks."""
        files, is_last = self.take(1)
        while not files and not is_last:
            files, is_last = self.take(1)
        self.give_back(files)
        return bool(files)

    def take(self, count: int) -> tuple[list[WantedFile], bool]:
        """Return up to ``count`` files that are not empty, and whether these are the last.

        Blocks. Empty files need nobody's bytes and are written here.
        """
        files = [self._again.popleft() for _ in range(min(count, len(self._again)))]
        fresh = list(itertools.islice(self._rest, count - len(files)))
        if empty := [(file, b"") for file in fresh if not file.size]:
            self.update.write_small(empty)
        is_last = len(files) + len(fresh) < count
        return files + [file for file in fresh if file.size], is_last

    def give_back(self, files: list[WantedFile]) -> None:
        """Take back what is not in place."""
        self._again.extend(files)


class Pulling:
    """One session over ``channel`` that fills an update.

    Attributes:
        wire_in: bytes of messages that came for it.
        wire_out: bytes of messages sent for it.
    """

    def __init__(
        self,
        machine: Receiver,
        channel: Channel,
        wanting: Wanting,
        *,
        pool: Executor,
        stats: PullStats,
        on_progress: Callable[[], None],
    ) -> None:
        self.wire_in = 0
        self.wire_out = 0
        self._machine = machine
        self._channel = channel
        self._wanting = wanting
        self._landing = Landing(wanting.update)
        self._pool = pool
        self._stats = stats
        self._on_progress = on_progress
        self._loop = asyncio.get_running_loop()
        self._inbox: asyncio.Queue[Event] = asyncio.Queue()
        # What touches the update, in order; None ends it. The window bounds what is in here.
        self._disk: asyncio.Queue[Turn | None] = asyncio.Queue()
        self._cuts: set[asyncio.Task[None]] = set()
        # Tickets of files in place of which the machine has not been told yet.
        self._landed: set[int] = set()
        # Files taken from the wanting that the machine has not been given yet.
        self._taken: list[WantedFile] = []
        self._inbox_bytes = 0
        self._is_flooded = False
        self._is_finished = False

    # --- called by the channel ------------------------------------------------------------

    def take(self, message: Opened | Frame | Recipe | Refuse, payload: Buffer) -> None:
        """Take a message of this session."""
        self._inbox_bytes += len(payload)
        # No honest peer sends what was not wanted. This bounds what comes before it is judged.
        if self._inbox_bytes > MAX_OUTSTANDING_BYTES or self._inbox.qsize() > _MAX_INBOX:
            if not self._is_flooded:
                self._is_flooded = True
                self.lose(UnexpectedMessage("the peer floods this side with messages"))
            return

        def receive(now: float) -> list[Effect]:
            self._inbox_bytes -= len(payload)
            return self._machine.receive(message, payload, now)

        self._inbox.put_nowait(receive)

    def lose(self, error: FilesyncError) -> None:
        """End with ``error``: the peer is gone."""
        self._inbox.put_nowait(partial(_fail, error))

    # --- running --------------------------------------------------------------------------

    async def run(self) -> None:
        """Fetch everything. What is left after an error goes back to the wanting.

        Raises:
            PeerError: the peer broke the protocol; it was told.
            Unavailable: it is gone, silent, or refused.
            StoreError: this disk.
        """
        session = self._machine.session
        self._channel.receives[session] = self
        writer = asyncio.create_task(self._take_turns())
        try:
            await self._drive()
        except FilesyncError as exc:
            self._channel.send_nowait(Close(session, exc.code, str(exc)[:1000]))
            raise
        except asyncio.CancelledError:
            self._channel.send_nowait(Close(session, "cancelled", "no longer wanted"))
            raise
        finally:
            del self._channel.receives[session]
            await self._stop(writer)

    async def _drive(self) -> None:
        machine = self._machine
        effects = machine.start()
        while True:
            for effect in effects:
                await self._perform(effect)
            if self._is_finished:
                return
            try:
                async with asyncio.timeout_at(machine.deadline):
                    event = await self._inbox.get()
            except TimeoutError:
                machine.expire(self._loop.time())
                effects = []
            else:
                effects = event(self._loop.time())

    async def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(message):
                await self._channel.send(message)
            case Store(coded, payload, raw_bytes, _):
                # Decompressed at once, beside the frame before it; written in turn.
                plain = self._loop.run_in_executor(
                    self._pool, codec.decompress, coded, payload, raw_bytes
                )
                plain.add_done_callback(_retrieve)
                self._disk.put_nowait(partial(self._store, effect, plain))
            case OpenBasis(file):
                self._disk.put_nowait(partial(self._open_bases, file))
            case CopyRanges():
                self._disk.put_nowait(partial(self._copy, effect))
            case FinishFile(file):
                self._disk.put_nowait(partial(self._finish_file, file))
            case NeedFiles():
                self._disk.put_nowait(self._feed)
            case Finish():
                self._is_finished = True
            case _:
                assert_never(effect)

    async def _take_turns(self) -> None:
        while (turn := await self._disk.get()) is not None:
            try:
                event = await turn()
            except FilesyncError as exc:
                event = partial(_fail, exc)
            except Exception as exc:  # the top of a task: the driver ends with it
                event = partial(_fail, exc)
            if event is not None:
                self._inbox.put_nowait(event)

    async def _stop(self, writer: asyncio.Task[None]) -> None:
        """End the writer after the turn that it is in, then remove what is half written."""
        while not self._disk.empty():
            self._disk.get_nowait()
        self._disk.put_nowait(None)
        await asyncio.wait([writer, *self._cuts])
        await self._in_thread(self._landing.abort)
        pending = self._machine.pending.values()
        left = [file for file in pending if file.ticket not in self._landed]
        self._wanting.give_back([*left, *self._taken])

    # --- turns ------------------------------------------------------------------------------

    async def _store(self, effect: Store, plain: asyncio.Future[Buffer]) -> Event:
        tickets = await self._in_thread(self._landing.store, effect.pieces, await plain)
        self._landed.update(tickets)
        self._stats.content_bytes += effect.raw_bytes
        self._on_progress()

        def stored(now: float) -> list[Effect]:
            self._landed.difference_update(tickets)
            return self._machine.stored(effect.pieces, now)

        return stored

    async def _open_bases(self, file: WantedFile) -> None:
        bases = await self._in_thread(self._landing.open_bases, file)
        cut = asyncio.create_task(self._cut_bases(file, bases))
        self._cuts.add(cut)
        cut.add_done_callback(self._cuts.discard)

    async def _cut_bases(self, file: WantedFile, bases: Sequence[BasisFile]) -> None:
        try:
            find = await self._in_thread(self._landing.cut_bases, bases)
        except OSError as exc:
            self._inbox.put_nowait(partial(_fail, StoreError(f"an old file: {exc.strerror}")))
        else:
            self._inbox.put_nowait(partial(self._machine.based, file, find))

    async def _copy(self, effect: CopyRanges) -> Event:
        # A basis that became shorter shows again when the whole file is verified.
        with suppress(ContentCorrupt):
            await self._in_thread(self._landing.copy, effect.file, effect.copies)
        copied = sum(length for _, _, length in effect.copies)
        self._stats.copied_bytes += copied
        self._on_progress()
        return partial(self._machine.copied, effect.file, copied)

    async def _finish_file(self, file: WantedFile) -> Event:
        try:
            await self._in_thread(self._landing.finish, file)
        except ContentCorrupt as exc:
            return partial(self._machine.corrupt, file, exc)
        self._landed.add(file.ticket)
        self._on_progress()

        def finished(now: float) -> list[Effect]:
            self._landed.discard(file.ticket)
            return self._machine.finished(file, now)

        return finished

    async def _feed(self) -> Event:
        files, is_last = await self._in_thread(self._wanting.take, FILES_AT_ONCE)
        self._taken = files

        def add(now: float) -> list[Effect]:
            self._taken = []
            return self._machine.add(files, is_last=is_last, now=now)

        return add

    async def _in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._loop.run_in_executor(self._pool, partial(call, *args, **kwargs))


def _retrieve(future: asyncio.Future[Buffer]) -> None:
    """Say that the outcome was seen: nobody looks at it once the session has ended."""
    if not future.cancelled():
        future.exception()


def _fail(error: Exception, _: float) -> list[Effect]:
    raise error
