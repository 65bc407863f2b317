"""Sockets at which the processes of a step reach the SSH agents of the build's user.

What a process says goes to the user's own machine, message by message, and nothing of it is kept.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from worker.wire.agents import LENGTH_BYTES, framed, length_of
from worker.wire.ops import SshMount

log = logging.getLogger(__name__)

MAX_LINES: Final = 32
"""Connections at once to one socket; more wait."""
_PAUSE_S: Final = 0.5

Ask = Callable[[str, int, bytes], None]
"""Have an agent asked something over a connection; b"" ends that."""


class Agents:
    """The agents that one step may ask.

    Args:
        ids: those that the user gives.
        ask: is told what a process says to one of them; ``answer`` has the answer.
    """

    def __init__(self, ids: Sequence[str] = (), ask: Ask = lambda *_: None) -> None:
        self.ids = frozenset(ids)
        self._ask = ask
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}

    def answer(self, line: int, said: bytes) -> None:
        """Pass an answer on. One that nobody waits for is no matter."""
        waiting = self._waiting.get(line)
        if waiting is not None and not waiting.done():
            waiting.set_result(said)

    @contextlib.asynccontextmanager
    async def listening(
        self, mounts: Sequence[SshMount], directory: Path
    ) -> AsyncIterator[Mapping[SshMount, Path]]:
        """Give a socket for each of ``mounts``, made in ``directory``, as long as the block lasts."""
        made = {mount: directory / str(number) for number, mount in enumerate(mounts)}
        with contextlib.ExitStack() as stack:
            tasks: list[asyncio.Task[None]] = []
            try:
                for mount, path in made.items():
                    listener = stack.enter_context(_listener(path, mount))
                    tasks.append(asyncio.create_task(self._take(mount.id, listener)))
                yield made
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _take(self, agent: str, listener: socket.socket) -> None:
        """Take connections until cancelled, which ends them."""
        loop = asyncio.get_running_loop()
        room = asyncio.Semaphore(MAX_LINES)
        async with asyncio.TaskGroup() as group:
            while True:
                await room.acquire()
                try:
                    connection, _ = await loop.sock_accept(listener)
                except OSError as exc:  # there are no descriptors left, for now
                    log.warning("an SSH agent is not reached reason=%s", exc)
                    await asyncio.sleep(_PAUSE_S)
                    room.release()
                    continue
                task = group.create_task(self._carry(agent, connection))
                task.add_done_callback(lambda _: room.release())

    async def _carry(self, agent: str, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        line = next(self._numbers)
        try:
            with contextlib.suppress(OSError, EOFError):  # the process has ended
                await self._answer_all(agent, line, reader, writer)
        finally:
            self._waiting.pop(line, None)
            self._ask(agent, line, b"")
            writer.close()

    async def _answer_all(
        self, agent: str, line: int, reader: StreamReader, writer: StreamWriter
    ) -> None:
        loop = asyncio.get_running_loop()
        while said := await reader.readexactly(
            length_of(await reader.readexactly(LENGTH_BYTES))
        ):
            answer = self._waiting[line] = loop.create_future()
            self._ask(agent, line, said)
            if not (told := await answer):
                return
            writer.write(framed(told))
            await writer.drain()


@contextlib.contextmanager
def _listener(path: Path, mount: SshMount) -> Iterator[socket.socket]:
    directory = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            # A worker's state may have a path that is too long for a socket's.
            listener.bind(f"/proc/self/fd/{directory}/{path.name}")
            os.chown(path, mount.uid, mount.gid)
            os.chmod(path, mount.mode)
            listener.setblocking(False)
            listener.listen()
            yield listener
    finally:
        os.close(directory)
