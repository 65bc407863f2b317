"""How much of what is to be sent is in memory, of all sessions together."""

import asyncio
from collections.abc import Sequence
from functools import partial

import pytest

from filesync.digest import EMPTY
from filesync.transfer.flow import Compress, Flow
from filesync.transfer.send import outgoing_zmq
from filesync.transfer.send.unsent import Share, Unsent
from filesync.transfer.wire import DeltaItem, Frame, Open, Range, RecipeItem, Want, decode
from tests.unit.transfer.sending import sending

MIB = 1 << 20


def begin(share: Share, frames: int) -> list[memoryview]:
    """Read and send so many frames; return what the socket has of them."""
    views = []
    for _ in range(frames):
        share.begin()
        views.append(share.sent(b"frame"))
    return views


def test_one_session_alone_may_use_all_the_room() -> None:
    share = Unsent(3).share()
    sent = begin(share, 2)
    assert share.may_read()
    sent += begin(share, 1)
    assert not share.may_read()


def test_a_frame_counts_until_the_socket_has_let_go_of_it() -> None:
    share = Unsent(1).share()
    sent = begin(share, 1)
    assert not share.may_read()
    sent.clear()
    assert share.may_read()


def test_who_has_nothing_in_memory_may_read_one_however_little_room_there_is() -> None:
    unsent = Unsent(2)
    first, second = unsent.share(), unsent.share()
    sent = begin(first, 2)
    assert second.may_read()
    sent += begin(second, 1)
    assert not first.may_read()
    assert not second.may_read()


def test_what_was_begun_and_is_not_sent_leaves_its_room_to_others() -> None:
    unsent = Unsent(2)
    ended, other = unsent.share(), unsent.share()
    ended.begin()
    sent = begin(other, 1)
    assert not other.may_read()
    ended.close()
    ended.close()
    assert other.may_read()
    assert sent


def test_what_was_sent_before_a_session_ended_counts_until_it_is_gone() -> None:
    unsent = Unsent(2)
    ended, other = unsent.share(), unsent.share()
    sent = begin(ended, 1)
    ended.close()
    kept = begin(other, 1)
    assert not other.may_read()
    sent.clear()
    assert other.may_read()
    assert kept


def test_who_waits_for_room_goes_on_when_there_is_some() -> None:
    async def main() -> None:
        share = Unsent(1).share()
        sent = begin(share, 1)
        waiting = asyncio.create_task(share.room())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        sent.clear()
        await asyncio.wait_for(waiting, 10)

    asyncio.run(main())


class _Large:
    """A source of which any range can be read, and how often that was."""

    def __init__(self) -> None:
        self.reads = 0

    def load(self) -> None:
        pass

    def read(self, ranges: Sequence[Range]) -> bytes:
        self.reads += 1
        return b"x" * MIB

    def recipes(self, items: Sequence[RecipeItem]) -> bytes:
        raise AssertionError("nobody asks for a recipe")

    def deltas(self, key: int, items: Sequence[DeltaItem], signatures: bytes) -> bytes:
        raise AssertionError("nobody asks for a delta")

    def close(self) -> None:
        pass


def test_of_many_sessions_that_nobody_reads_each_has_one_frame_in_memory_and_all_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    most, sessions, frames = 4, 10, 6
    monkeypatch.setattr(outgoing_zmq, "Unsent", partial(Unsent, most))
    source = _Large()

    async def come(ranges: Sequence[Range]) -> None:
        pass

    async def main() -> tuple[int, int]:
        async with sending(threads=2) as (peer, channel, outgoing, tasks):
            outgoing.offer_coming(EMPTY, source, come, bytes(16), flow=Flow())
            for session in range(1, sessions + 1):
                outgoing.take(channel, Open(session, bytes(16), EMPTY, Compress.NONE), b"")
                wanted = tuple((EMPTY, at * MIB, MIB) for at in range(frames))
                outgoing.take(channel, Want(session, wanted), b"")
            await asyncio.sleep(0.5)
            unread = source.reads
            came = 0
            while came < sessions * frames:
                message, _ = decode(await asyncio.wait_for(peer.recv_multipart(), 10))
                came += isinstance(message, Frame)
            outgoing.close()
            await asyncio.wait(tasks, timeout=10)
        return unread, came

    unread, came = asyncio.run(main())
    assert sessions <= unread <= most + sessions
    assert came == source.reads == sessions * frames
