"""The sending side, and a peer that says itself what it reads."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import NamedTuple

import zmq
import zmq.asyncio

from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.send.outgoing_zmq import Outgoing
from filesync.transfer.stats import Counters


class Ends(NamedTuple):
    """A connection's two.

    Attributes:
        peer: the socket of the one, which nobody but the test reads.
        channel: the other.
        outgoing: sends over that.
        tasks: of its sessions.
    """

    peer: zmq.asyncio.Socket
    channel: Channel
    outgoing: Outgoing
    tasks: list[asyncio.Task[None]]


@asynccontextmanager
async def sending(threads: int = 1) -> AsyncIterator[Ends]:
    """Give both ends, for the block; sessions read in so many threads."""
    context = zmq.asyncio.Context()
    peer, own = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    tasks: list[asyncio.Task[None]] = []
    try:
        peer.bind("inproc://peer")
        own.connect("inproc://peer")
        with ThreadPoolExecutor(threads) as pool:
            outgoing = Outgoing(pool, lambda work: tasks.append(asyncio.create_task(work)))
            yield Ends(peer, Channel(own, (), Counters(), name="peer"), outgoing, tasks)
    finally:
        context.destroy(linger=0)
