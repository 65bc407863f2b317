"""A layer's tar while it streams by: its members are listed, a few contents are kept."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Container, Iterator
from typing import BinaryIO, Final, TypeVar

from filesync.transfer.threads import until_done
from worker.layers import BadLayer, Limits
from worker.layers.member import FILE, Member
from worker.layers.source import Source, decompressed
from worker.layers.tarread import read_members
from worker.parts.listing import Leaf
from worker.parts.spool import Spool

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
        StoreError: this disk.
    """
    source = Source(decompressed(stream), max_bytes=limits.bytes)
    members: list[Member] = []
    for member in read_members(source):
        if member.path in without:
            continue
        if len(members) >= limits.entries:
            raise BadLayer(f"a layer has more than {limits.entries} members")
        leaf = Leaf(layer, len(members), member)
        members.append(member)
        if keep(leaf) and member.kind == FILE and member.size:
            at = 0
            for piece in _content(source, member):
                spool.write(leaf, at, piece)
                at += len(piece)
    source.finish()
    return members


def _content(source: Source, member: Member) -> Iterator[bytes | memoryview]:
    left = member.size
    while left:
        piece = source.read_content(min(left, _PIECE_BYTES))
        if not piece:
            raise BadLayer("a layer ends inside a file")
        left -= len(piece)
        yield piece


async def through_pipe(
    give: Callable[[Callable[[memoryview], None]], Awaitable[None]],
    work: Callable[[BinaryIO], T],
) -> T:
    """Do ``work`` in a thread, on a stream of what ``give`` hands to the function it is given.

    What ``give`` raises is raised, however the work ended; it is done before this returns.
    """
    reading, writing = os.pipe()
    reader = asyncio.ensure_future(asyncio.to_thread(_work, reading, work))

    def put(data: memoryview) -> None:
        while data:
            data = data[os.write(writing, data) :]

    failure: BaseException | None = None
    try:
        await give(put)
    except BrokenPipeError:
        pass  # the work has failed, and says why
    except BaseException as exc:
        failure = exc
    os.close(writing)
    if failure is not None:
        await asyncio.wait([reader])
        if not reader.cancelled():
            reader.exception()
        raise failure
    return await until_done(reader)


def _work(reading: int, work: Callable[[BinaryIO], T]) -> T:
    with open(reading, "rb", buffering=_PIECE_BYTES) as stream:
        done = work(stream)
        while stream.read(_PIECE_BYTES):
            pass  # padding; who gives must not be cut off
        return done
