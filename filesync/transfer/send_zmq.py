"""Runs a Sender: reads, compresses and sends what one session wants."""

import asyncio
import logging
from collections import deque
from concurrent.futures import Executor
from typing import Final

from filesync.errors import FilesyncError, LocalError
from filesync.transfer import codec
from filesync.transfer.channel_zmq import Channel
from filesync.transfer.errors import NotOffered, TooMuchWanted
from filesync.transfer.sender import Job, Sender, SendFrame
from filesync.transfer.source_disk import SourceTree
from filesync.transfer.wire import (
    MAX_OUTSTANDING_RANGES,
    AskRecipe,
    Buffer,
    Frame,
    Opened,
    Recipe,
    Refuse,
    Want,
)

log = logging.getLogger(__name__)

READ_AHEAD: Final = 3
"""Frames of a session that are being read or wait to be sent."""


class Sending:
    """One session over ``channel`` that sends from ``tree``."""

    def __init__(
        self, session: int, channel: Channel, tree: SourceTree, *, pool: Executor
    ) -> None:
        self._session = session
        self._channel = channel
        self._tree = tree
        self._pool = pool
        self._sender = Sender(tree.size_of)
        self._inbox: deque[Want | AskRecipe] = deque()
        self._inbox_ranges = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def take(self, message: Want | AskRecipe) -> None:
        """Take a request; it is judged once the tree's index is there."""
        # While there is no index nothing is judged: this bounds what waits until then.
        self._inbox_ranges += len(message.ranges) if isinstance(message, Want) else 1
        if self._inbox_ranges <= MAX_OUTSTANDING_RANGES:
            self._inbox.append(message)
        self._wake.set()

    def end(self) -> None:
        """Stop. What is being read is thrown away."""
        if self._task is not None:
            self._task.cancel()

    def withdraw(self) -> None:
        """Stop because the offer is closed, and tell the peer, who would wait for the rest."""
        error = NotOffered("the offer was closed")
        self._channel.send_nowait(Refuse(self._session, error.code, str(error)))
        self.end()

    async def run(self) -> None:
        """Serve the session until ``end`` or an error, which the peer is told."""
        self._task = asyncio.current_task()
        try:
            await self._serve()
        except FilesyncError as exc:
            log.info("session ended: peer=%s reason=%s", self._channel.name, exc)
            self._channel.send_nowait(Refuse(self._session, exc.code, str(exc)[:1000]))
        except Exception:  # the top of a task: one session must not end the others
            log.exception("session failed: peer=%s", self._channel.name)
            self._channel.send_nowait(Refuse(self._session, LocalError.code, "internal error"))

    async def _serve(self) -> None:
        await self._channel.send(Opened(self._session))
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._pool, self._tree.load)
        ahead: deque[asyncio.Future[tuple[Frame | Recipe, Buffer]]] = deque()
        try:
            while True:
                self._judge()
                while len(ahead) < READ_AHEAD and (job := self._sender.next_job()):
                    ahead.append(loop.run_in_executor(self._pool, self._perform, job))
                if ahead:
                    message, payload = await ahead[0]
                    ahead.popleft()
                    await self._channel.send(message, payload)
                else:
                    await self._wake.wait()
                    self._wake.clear()
        finally:
            for future in ahead:
                future.cancel()

    def _judge(self) -> None:
        if self._inbox_ranges > MAX_OUTSTANDING_RANGES:
            raise TooMuchWanted("more is wanted at once than a session may have outstanding")
        while self._inbox:
            self._sender.receive(self._inbox.popleft())
        self._inbox_ranges = 0

    def _perform(self, job: Job) -> tuple[Frame | Recipe, Buffer]:
        if isinstance(job, SendFrame):
            coded, payload = codec.compress(self._tree.read(job.ranges))
            return Frame(self._session, job.raw_bytes, coded), payload
        page = self._tree.recipe(job.digest, job.offset)
        return Recipe(self._session, job.digest, job.offset), page
