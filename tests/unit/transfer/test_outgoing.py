"""Sessions that send, from their opening to their end."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import zmq
import zmq.asyncio

from filesync.digest import EMPTY
from filesync.errors import Unavailable
from filesync.manifest import Manifest, MemoryNodes
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.flow import Compress, Flow
from filesync.transfer.send.contents import Contents
from filesync.transfer.send.offer import Offer
from filesync.transfer.send.outgoing_zmq import Outgoing
from filesync.transfer.send.source_disk import SourceTree
from filesync.transfer.stats import Counters
from filesync.transfer.wire import (
    AskRecipes,
    Close,
    DeltaItem,
    Frame,
    Level,
    Open,
    Range,
    RecipeItem,
    Want,
    decode,
)
from tests.unit.transfer.sending import sending

End = Callable[[Outgoing, Channel, Offer], None]


@pytest.mark.parametrize(
    "end",
    [
        lambda outgoing, channel, _: outgoing.take(channel, Close(7), b""),
        lambda _, channel, __: channel.lose(Unavailable("gone")),
        lambda _, __, offer: offer.close(),
    ],
    ids=["closed", "lost", "withdrawn"],
)
def test_a_session_that_ends_before_it_has_begun_is_over(tmp_path: Path, end: End) -> None:
    async def main() -> None:
        context = zmq.asyncio.Context()
        tasks: list[asyncio.Task[None]] = []
        try:
            with ThreadPoolExecutor(1) as pool:
                # Nobody reads: a session that began would wait for ever to say so.
                channel = Channel(context.socket(zmq.DEALER), (), Counters(), name="peer")
                outgoing = Outgoing(pool, lambda work: tasks.append(asyncio.create_task(work)))
                nothing = Manifest(EMPTY, MemoryNodes())
                offer = outgoing.offer(nothing, tmp_path, None, flow=Flow())
                # What comes together is taken together, before any task has its turn.
                outgoing.take(channel, Open(7, offer.token, EMPTY), b"")
                end(outgoing, channel, offer)
                for _ in range(10):
                    await asyncio.sleep(0)
                is_done = [task.done() for task in tasks]
                for task in tasks:
                    task.cancel()
                assert is_done == [True]
                assert not channel.sends
        finally:
            context.destroy(linger=0)

    asyncio.run(main())


def test_who_lists_an_offer_and_who_opens_a_session_use_one_source() -> None:
    made: list[SourceTree] = []
    both = Barrier(2)

    def open_source() -> SourceTree:
        time.sleep(0.05)  # as what it takes is imported
        made.append(SourceTree(Path("none"), lambda: Contents(MemoryNodes(), ())))
        return made[-1]

    def use(_: int) -> object:
        both.wait(10)
        return offer.open()

    offer = Offer(EMPTY, open_source, token=None, flow=Flow(), forget=lambda _: None)
    with ThreadPoolExecutor(2) as pool:
        used = set(pool.map(use, range(2)))
    assert used == {*made} == {offer.source}


class _Coming:
    """A source that takes note of what is read, and of what was waited for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def come(self, ranges: Sequence[Range]) -> None:
        self.asked.append("come")

    def load(self) -> None:
        pass

    def read(self, ranges: Sequence[Range]) -> bytes:
        self.asked.append("read")
        return b"x"

    def recipes(self, items: Sequence[RecipeItem]) -> bytes:
        return b"parts"

    def deltas(self, key: int, items: Sequence[DeltaItem], signatures: bytes) -> bytes:
        raise AssertionError("nobody asks for a delta")

    def close(self) -> None:
        pass


def test_a_frame_that_is_wanted_after_an_ask_waits_for_its_bytes_as_any_other() -> None:
    source = _Coming()

    async def main() -> None:
        async with sending() as (peer, channel, outgoing, tasks):
            token = bytes(16)
            outgoing.offer_coming(EMPTY, source, source.come, token, flow=Flow())
            outgoing.take(channel, Open(7, token, EMPTY, Compress.NONE), b"")
            items = ((EMPTY, 0, 1, Level.CHUNKS),)
            outgoing.take(channel, AskRecipes(7, 1, items), b"")
            outgoing.take(channel, Want(7, ((EMPTY, 0, 1),)), b"")
            while True:
                message, _ = decode(await asyncio.wait_for(peer.recv_multipart(), 10))
                if isinstance(message, Frame):
                    break
            outgoing.take(channel, Close(7), b"")
            await asyncio.wait(tasks, timeout=10)

    asyncio.run(main())
    assert source.asked == ["come", "read"]
