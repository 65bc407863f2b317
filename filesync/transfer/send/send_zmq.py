"""Runs a Sender: reads, compresses and sends what one session wants."""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Final

from filesync.errors import FilesyncError, LocalError
from filesync.process.memory import MAPPED_BYTES, keep_pages
from filesync.transfer.coding import codec
from filesync.transfer.coding.choice import Coding
from filesync.transfer.coding.stream import StreamEncoder
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.errors import NotOffered, TooMuchWanted
from filesync.transfer.flow import Compress, Flow, Pace
from filesync.transfer.send.sender import (
    FRAME_BYTES,
    Job,
    SendDeltas,
    Sender,
    SendFrame,
    SendRecipes,
)
from filesync.transfer.send.source import Come, Source
from filesync.transfer.send.unsent import Share
from filesync.transfer.wire import (
    MAX_OUTSTANDING_RANGES,
    Buffer,
    Codec,
    Deltas,
    Frame,
    Opened,
    Recipes,
    Refuse,
    Request,
    Want,
    error_path,
)

log = logging.getLogger(__name__)

READ_AHEAD: Final = 2
"""Jobs, or pairs of them, of a session that are being read or wait to be sent."""
FRAME_S: Final = 10.0
"""A frame takes no longer where the rate is bounded: the receiver counts whole ones, and does not wait
a minute for one."""
_BYTES_A_RANGE: Final = 192
"""Bytes of a payload that weigh as much as a range: 20 of the largest asks are too much."""

Answer = Frame | Recipes | Deltas
Work = asyncio.Future[list[tuple[Answer, Buffer]]]


class Sending:
    """One session over ``channel`` that sends from ``source``.

    Args:
        flow: what this side and the receiver ask of it together.
        come: awaited before a frame is read, where it may not be there yet.
        may_stream: whether its frames may be coded as one stream, which takes memory.
        share: of the memory that all sessions of the process have for their frames.
    """

    def __init__(
        self,
        session: int,
        channel: Channel,
        source: Source,
        *,
        flow: Flow,
        pool: Executor,
        come: Come | None,
        may_stream: bool,
        share: Share,
    ) -> None:
        self._session = session
        self._channel = channel
        self._source = source
        self._come = come
        self._pool = pool
        self._sender = Sender(frame_bytes=_frame_bytes(flow.bytes_per_s))
        self._is_plain = flow.compress is Compress.NONE
        self._coding = Coding(flow.compress, may_stream=may_stream)
        self._encoder: StreamEncoder | None = None
        self._last_piece: Work | None = None
        self._pace = Pace(flow.bytes_per_s)
        self._share = share
        self._inbox: deque[tuple[Request, Buffer]] = deque()
        self._inbox_size = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_ended = False

    def take(self, message: Request, payload: Buffer) -> None:
        """Take a request; it is judged once the tree's index is there."""
        # While there is no index nothing is judged: this bounds what waits until then.
        if isinstance(message, Want):
            self._inbox_size += len(message.ranges)
        else:
            self._inbox_size += 1024 + len(payload) // _BYTES_A_RANGE
        if self._inbox_size <= MAX_OUTSTANDING_RANGES:
            self._inbox.append((message, payload))
        self._wake.set()

    def end(self) -> None:
        """Stop, or never begin. What is being read is thrown away."""
        self._is_ended = True
        if self._task is not None:
            self._task.cancel()

    def withdraw(self) -> None:
        """Stop because the offer is closed, and tell the peer, who would wait for the rest."""
        error = NotOffered("the offer was closed")
        self._channel.send_soon(Refuse(self._session, error.code, str(error)))
        self.end()

    async def run(self) -> None:
        """Serve the session until ``end`` or an error, which the peer is told."""
        if self._is_ended:
            return
        self._task = asyncio.current_task()
        try:
            await self._serve()
        except FilesyncError as exc:
            log.info("session ended: peer=%s reason=%s", self._channel.name, exc)
            detail, path = str(exc)[:1000], error_path(exc)
            await self._channel.send_last(Refuse(self._session, exc.code, detail, path))
        except Exception:  # the top of a task: one session must not end the others
            log.exception("session failed: peer=%s", self._channel.name)
            await self._channel.send_last(
                Refuse(self._session, LocalError.code, "internal error")
            )
        finally:
            # They are large, and this is held until Python looks for cycles.
            self._encoder = self._last_piece = None

    async def _serve(self) -> None:
        await self._channel.send(Opened(self._session))
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._pool, self._source.load)
        ahead: deque[Work] = deque()
        try:
            while True:
                self._judge()
                self._read_ahead(ahead)
                if ahead:
                    await self._send_first(ahead)
                elif self._sender.is_asked:
                    await self._share.room()
                else:
                    await self._wake.wait()
                    self._wake.clear()
        finally:
            for work in ahead:
                if not work.cancel() and not work.cancelled():
                    work.exception()  # the first that failed has said why
            self._share.close()

    def _read_ahead(self, ahead: deque[Work]) -> None:
        while len(ahead) < READ_AHEAD and (job := self._next_job()):
            ahead.append(self._begin(job))

    def _next_job(self) -> Job | None:
        if not self._share.may_read() or not (job := self._sender.next_job()):
            return None
        self._share.begin()
        return job

    async def _send_first(self, ahead: deque[Work]) -> None:
        """Send what was begun first, once it is read. Nothing of it stays in memory."""
        answers = await ahead[0]
        ahead.popleft()
        for message, payload in answers:
            await self._send(message, payload)

    def _begin(self, job: Job) -> Work:
        wanted = self._coding.codec
        if wanted is Codec.STREAM and isinstance(job, SendFrame):
            self._last_piece = asyncio.create_task(self._stream(job, self._last_piece))
            return self._last_piece
        if self._come is not None and isinstance(job, SendFrame):
            return asyncio.create_task(self._once_come(job, self._come, wanted))
        jobs = [job]
        # A hop to a thread costs 50 us, so it reads two frames that are not coded. Of those that may
        # not be there yet each is waited for by itself.
        if wanted is Codec.RAW and self._come is None and (another := self._next_job()):
            jobs.append(another)
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._pool, self._perform_all, jobs, wanted)

    async def _once_come(
        self, job: SendFrame, come: Come, wanted: Codec
    ) -> list[tuple[Answer, Buffer]]:
        await come(job.ranges)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._perform_all, [job], wanted)

    async def _stream(self, job: SendFrame, before: Work | None) -> list[tuple[Answer, Buffer]]:
        """Read a frame, and code it once the one before it is."""
        loop = asyncio.get_running_loop()
        if self._come is not None:
            await self._come(job.ranges)
        data = await loop.run_in_executor(self._pool, self._source.read, job.ranges)
        if before is not None:
            await asyncio.wait([before])
        frame = await loop.run_in_executor(self._pool, self._encode, job, memoryview(data))
        return [frame]

    def _encode(self, job: SendFrame, data: memoryview) -> tuple[Answer, Buffer]:
        if codec.is_hole(data):
            return Frame(self._session, job.raw_bytes, Codec.HOLE), codec.HOLE
        if not codec.seems_to_compress(data):
            return Frame(self._session, job.raw_bytes), data
        # ``run`` may end meanwhile, in another thread, and let go of it.
        encoder = self._encoder = self._encoder or StreamEncoder()
        return Frame(self._session, job.raw_bytes, Codec.STREAM), encoder.encode(data)

    def _judge(self) -> None:
        if self._inbox_size > MAX_OUTSTANDING_RANGES:
            raise TooMuchWanted("more is wanted at once than a session may have outstanding")
        while self._inbox:
            self._sender.receive(*self._inbox.popleft())
        self._inbox_size = 0

    async def _send(self, message: Answer, payload: Buffer) -> None:
        loop = asyncio.get_running_loop()
        if delay_s := self._pace.delay(len(payload), loop.time()):
            await asyncio.sleep(delay_s)
        started = loop.time()
        await self._channel.send(message, self._share.sent(payload))
        if isinstance(message, Frame):
            waited_s = delay_s + loop.time() - started
            self._coding.note(message.raw_bytes, len(payload), waited_s)

    def _perform_all(self, jobs: Sequence[Job], wanted: Codec) -> list[tuple[Answer, Buffer]]:
        return [self._perform(job, wanted) for job in jobs]

    def _perform(self, job: Job, wanted: Codec) -> tuple[Answer, Buffer]:
        match job:
            case SendFrame(ranges, raw_bytes):
                if raw_bytes >= MAPPED_BYTES:
                    keep_pages()
                data = self._source.read(ranges)
                coded, payload = codec.compress(data, wanted=wanted is not Codec.RAW)
                return Frame(self._session, raw_bytes, coded), payload
            case SendRecipes(ask, items):
                return Recipes(self._session, ask), self._source.recipes(items)
            case SendDeltas(ask, key, items, signatures):
                made = self._source.deltas(key, items, signatures)
                # Few bytes: worth the try on any link.
                coded, payload = codec.compress(made, wanted=not self._is_plain)
                return Deltas(self._session, ask, len(made), coded), payload


def _frame_bytes(bytes_per_s: int) -> int:
    """Return how much content a frame holds at a rate; 0 is any."""
    return min(FRAME_BYTES, int(bytes_per_s * FRAME_S)) if bytes_per_s else FRAME_BYTES
