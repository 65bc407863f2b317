"""Payloads made plain beside other work."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

from filesync.errors import PeerError
from filesync.process.memory import MAPPED_BYTES, keep_pages
from filesync.transfer.coding import codec
from filesync.transfer.receive.units import Coded
from filesync.transfer.wire import Buffer, Codec

Decode = Callable[[Buffer, int], Buffer]


class Decoding:
    """Makes the payloads of a pull's sessions plain, on threads of ``pool`` where they are compressed."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        # They outlive their sessions: what came before the end is still made plain.
        self._streams: dict[int, Decode] = {}
        self._last: dict[int, asyncio.Future[Buffer]] = {}

    def decoded(self, session: int, data: Coded) -> "asyncio.Future[Buffer]":
        """Return the plain bytes of what came in ``session``; give it frames in their order.

        The future has MalformedMessage if they are none; nobody needs to look.
        """
        if data.raw_bytes >= MAPPED_BYTES:
            keep_pages()
        plain: asyncio.Future[Buffer]
        if data.codec is Codec.STREAM:
            turn = self._in_turn(session, data, self._last.get(session))
            plain = self._last[session] = self._loop.create_task(turn)
        elif data.codec is Codec.ZSTD:
            plain = self._loop.run_in_executor(self._pool, codec.decompress, *data)
        else:
            plain = self._at_once(data)
        plain.add_done_callback(_retrieve)
        return plain

    async def _in_turn(
        self, session: int, data: Coded, before: "asyncio.Future[Buffer] | None"
    ) -> Buffer:
        if before is not None:
            await asyncio.wait([before])
        if session not in self._streams:
            # Most pulls on one machine need none, nor the window that it keeps.
            from filesync.transfer.coding.stream import StreamDecoder

            self._streams[session] = StreamDecoder().decode
        decode = self._streams[session]
        return await self._loop.run_in_executor(
            self._pool, decode, data.payload, data.raw_bytes
        )

    def _at_once(self, data: Coded) -> "asyncio.Future[Buffer]":
        # A hop to a thread costs 50 us, which is a fifth of what a frame of a MiB takes.
        plain = self._loop.create_future()
        try:
            plain.set_result(codec.decompress(*data))
        except PeerError as exc:
            plain.set_exception(exc)
        return plain


def _retrieve(future: "asyncio.Future[Buffer]") -> None:
    """Say that the outcome was seen: nobody looks at it once the pull has ended."""
    if not future.cancelled():
        future.exception()
