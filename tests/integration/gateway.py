"""A relay between two ends of a connection, which does what bad links do."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Gateway:
    """Passes connections on to a port.

    Attributes:
        address: where it listens.
        forgotten_ends: released when either end gives up a connection that was forgotten.
        all_ended: set while nothing is passed on.
        cut_after_bytes: so many are passed on, then all connections are cut, once; None for never.
        cuts: how often that was done.
        bad_connections: so many, from the first on, are cut at their first byte.
        bytes_per_s: so many are passed on each way of a connection; None for any.
        refuses_s: from the first connection on, all that come are cut for so long.
    """

    def __init__(self, behind: str, bytes_per_s: int | None = None) -> None:
        self._port = int(behind.rpartition(":")[2])
        self._forgotten: list[asyncio.Event] = []
        self._passing = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self.cut_after_bytes: int | None = None
        self.cuts = 0
        self.bad_connections = 0
        self.bytes_per_s = bytes_per_s
        self.refuses_s = 0.0
        self._open_s: float | None = None
        self.address = ""
        self.forgotten_ends = asyncio.Semaphore(0)
        self.all_ended = asyncio.Event()
        self.all_ended.set()

    def forget(self) -> None:
        """Pass on nothing more of the connections that there are, and tell nobody."""
        for forgotten in self._forgotten:
            forgotten.set()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._take(reader, writer)
        except BaseException:  # who has dialled once more when all is over
            writer.transport.abort()
            raise

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_refusing():
            writer.transport.abort()
            return
        if self.bad_connections:
            self.bad_connections -= 1
            await reader.read(1)
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:  # nobody listens behind it
            writer.transport.abort()
            return
        forgotten = asyncio.Event()
        self._forgotten.append(forgotten)
        self._passing += 1
        self._writers |= {writer, far_writer}
        self.all_ended.clear()
        there = self._carry(reader, far_writer, forgotten)
        await asyncio.gather(there, self._carry(far_reader, writer, forgotten))
        for one in (writer, far_writer):
            self._writers.discard(one)
            one.close()
        self._passing -= 1
        if not self._passing:
            self.all_ended.set()

    def cut(self) -> None:
        """End all connections, in the middle of whatever they carry."""
        for one in self._writers:
            one.transport.abort()

    def _is_refusing(self) -> bool:
        now_s = asyncio.get_running_loop().time()
        if self.refuses_s and self._open_s is None:
            self._open_s = now_s + self.refuses_s
        return self._open_s is not None and now_s < self._open_s

    def _is_cut_by(self, size: int) -> bool:
        if self.cut_after_bytes is None:
            return False
        self.cut_after_bytes -= size
        if self.cut_after_bytes >= 0:
            return False
        self.cut_after_bytes = None
        self.cuts += 1
        return True

    @property
    def piece_bytes(self) -> int:
        return self.bytes_per_s // 50 if self.bytes_per_s else 65_536

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        forgotten: asyncio.Event,
    ) -> None:
        with suppress(ConnectionError):
            while piece := await reader.read(self.piece_bytes):
                if self.bytes_per_s:
                    await asyncio.sleep(len(piece) / self.bytes_per_s)
                if self._is_cut_by(len(piece)):
                    self.cut()
                elif not forgotten.is_set():
                    writer.write(piece)
        if forgotten.is_set():
            self.forgotten_ends.release()
        else:
            writer.close()


@asynccontextmanager
async def gateway(behind: str, bytes_per_s: int | None = None) -> AsyncIterator[Gateway]:
    one = Gateway(behind, bytes_per_s)
    own = socket.socket()
    if bytes_per_s:  # or it would take in at once what it passes on in seconds
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    own.bind(("127.0.0.1", 0))
    server = await asyncio.start_server(one.take, sock=own, limit=one.piece_bytes)
    one.address = f"tcp://127.0.0.1:{own.getsockname()[1]}"
    try:
        yield one
    finally:
        server.close()
        one.cut()
        await one.all_ended.wait()
