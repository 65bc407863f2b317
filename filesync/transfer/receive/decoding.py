"""Payloads made plain beside other work."""

import asyncio
from concurrent.futures import Executor

from filesync.errors import PeerError
from filesync.transfer.coding import codec
from filesync.transfer.receive.units import Coded
from filesync.transfer.wire import Buffer, Codec


def decoded(data: Coded, pool: Executor) -> "asyncio.Future[Buffer]":
    """Return the plain bytes of ``data``, made by a thread of ``pool`` if they are compressed.

    The future has codec.decompress's MalformedMessage if they are none; nobody needs to look.
    """
    loop = asyncio.get_running_loop()
    if data.codec is Codec.ZSTD:
        plain = loop.run_in_executor(pool, codec.decompress, *data)
    else:
        # A hop to a thread costs 50 us, which is a fifth of what a frame of a MiB takes.
        plain = loop.create_future()
        try:
            plain.set_result(codec.decompress(*data))
        except PeerError as exc:
            plain.set_exception(exc)
    plain.add_done_callback(_retrieve)
    return plain


def _retrieve(future: "asyncio.Future[Buffer]") -> None:
    """Say that the outcome was seen: nobody looks at it once the pull has ended."""
    if not future.cancelled():
        future.exception()
