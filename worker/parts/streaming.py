"""A layer's tar while it streams by: its members are listed, a few contents are kept."""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Container
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, Final, TypeVar

from filesync.transfer.threads import until_done
from worker.layers import BadLayer, Limits
from worker.layers.member import FILE, Member
from worker.layers.source import Source, decompressed
from worker.layers.sparse import content_of
from worker.layers.tarread import read_members
from worker.parts.errors import NotInParts
from worker.parts.listing import Leaf
from worker.parts.spool import Spool

MAX_NAMES_BYTES: Final = 64 << 20
"""Bound on the names, links and xattrs of a layer that is listed: they are in memory, all at once."""
_PIECE_BYTES: Final = 1 << 20

T = TypeVar("T")
Take = Callable[[memoryview], None]
Keep = Callable[[Leaf], bool]
"""Told of each member, in order; says whether its content is to be kept, if it is a file."""


def list_stream(
    stream: BinaryIO,
    layer: int,
    *,
    limits: Limits,
    without: Container[bytes],
    keep: Keep,
    spool: Spool,
) -> list[Member]:
    """Return the members of a layer, but for those called as ``without`` says. Blocks.

    Nothing proves them until the stream's end has.

    Raises:
        BadLayer: it is no layer, or over a limit.
        NotInParts: it says more of its members than can be kept in mind.
        StoreError: this disk.
    """
    source = Source(decompressed(stream), max_bytes=limits.bytes)
    members: list[Member] = []
    left_bytes = MAX_NAMES_BYTES
    for member in read_members(source):
        if member.path in without:
            continue
        if len(members) >= limits.entries:
            raise BadLayer(f"a layer has more than {limits.entries} members")
        left_bytes -= _names_bytes(member)
        if left_bytes < 0:
            raise NotInParts(f"a layer with more than {MAX_NAMES_BYTES} bytes of names")
        leaf = Leaf(layer, len(members), member)
        members.append(member)
        if keep(leaf) and member.kind == FILE and member.size:
            at = 0
            for piece in content_of(source, member):
                spool.write(leaf, at, piece)
                at += len(piece)
    source.finish()
    return members


def _names_bytes(member: Member) -> int:
    xattrs = sum(len(name) + len(value) for name, value in member.xattrs)
    return len(member.path) + len(member.link) + xattrs


async def through_pipe(
    give: Callable[[Callable[[memoryview], None]], Awaitable[None]],
    work: Callable[[BinaryIO], T],
) -> T:
    """Do ``work`` in a thread, on a stream of what ``give`` hands to the function it is given.

    What ``give`` raises is raised, however the work ended; it is done before this returns. Work
    that finds the stream to be no layer lets ``give`` come to its end all the same.
    """
    reading, writing = os.pipe()
    # A thread of its own: were all of the loop's to wait for bytes, none would be left to write.
    with ThreadPoolExecutor(1, thread_name_prefix="layer-reader") as thread:
        loop = asyncio.get_running_loop()
        reader = loop.run_in_executor(thread, _work, reading, work)

        def put(data: memoryview) -> None:
            while data:
                data = data[os.write(writing, data) :]

        try:
            # A broken pipe says that the work has failed, and the work says why.
            with contextlib.suppress(BrokenPipeError):
                await give(put)
        except BaseException:
            os.close(writing)
            await until_done(asyncio.wait([reader]))
            reader.exception()
            raise
        os.close(writing)
        return await until_done(reader)


def _work(reading: int, work: Callable[[BinaryIO], T]) -> T:
    with open(reading, "rb", buffering=_PIECE_BYTES) as stream:
        try:
            done = work(stream)
        except BadLayer:
            # Whether these are the right bytes is known at their end only: if they are not, it
            # is no fault of the layer's, and another place may have it.
            _drain(stream)
            raise
        _drain(stream)  # padding
        return done


def _drain(stream: BinaryIO) -> None:
    while stream.read(_PIECE_BYTES):
        pass
