"""What is said over a connection when the peer does not read, or is gone."""

import asyncio
import gc
from collections.abc import Awaitable, Callable

import pytest
import zmq
import zmq.asyncio

from filesync.errors import FilesyncError, MalformedMessage, Unavailable
from filesync.transfer.connection import channel_zmq
from filesync.transfer.connection.calls_zmq import MAX_ANSWERING, answer, call
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.stats import Counters, Moved
from filesync.transfer.timeouts import LEAST_BYTES
from filesync.transfer.wire import Call, Close, Frame, Ping


def with_unread_channel(talk: Callable[[Channel], Awaitable[None]]) -> None:
    """Let ``talk`` have a channel with no room: nobody has dialled its socket."""

    async def main() -> None:
        context = zmq.asyncio.Context()
        try:
            socket = context.socket(zmq.DEALER)
            async with asyncio.timeout(20):
                await talk(Channel(socket, (), Counters(), name="peer"))
        finally:
            context.destroy(linger=0)

    asyncio.run(main())


def test_one_call_too_many_waits_for_nobody() -> None:
    async def talk(channel: Channel) -> None:
        channel.answering = MAX_ANSWERING
        for number in range(1, 1000):
            await answer(channel, Call(number, b""), None)
        assert channel.answering == MAX_ANSWERING

    with_unread_channel(talk)


def test_what_waits_for_a_peer_that_does_not_read_is_bounded_and_one_task() -> None:
    async def talk(channel: Channel) -> None:
        for session in range(1, 2000):
            channel.send_soon(Close(session))
        await asyncio.sleep(0)
        (waiting,) = asyncio.all_tasks() - {asyncio.current_task()}
        channel.lose(Unavailable("gone"))
        await asyncio.wait([waiting])
        assert waiting.exception() is None
        assert not channel.wire_out

    with_unread_channel(talk)


@pytest.mark.parametrize("reason", [Unavailable("gone"), MalformedMessage("nonsense")])
def test_what_is_said_to_a_peer_that_is_gone_is_no_error(reason: FilesyncError) -> None:
    async def talk(channel: Channel) -> None:
        channel.lose(reason)
        channel.send_nowait(Ping())
        channel.send_soon(Ping())
        await channel.send_last(Ping())
        with pytest.raises(type(reason)):
            await channel.send(Ping())

    with_unread_channel(talk)


def test_a_call_that_finds_its_peer_gone_is_one_error_and_no_other_is_logged() -> None:
    """What was to wait for the answer is told that the peer is gone, and nobody waits there."""
    unhandled: list[object] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, told: unhandled.append(told))
        context = zmq.asyncio.Context()
        try:
            socket = context.socket(zmq.ROUTER)
            socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
            channel = Channel(socket, (b"nobody",), Counters(), name="peer")
            with pytest.raises(Unavailable, match="peer is gone"):
                await call(channel, b"request")
        finally:
            context.destroy(linger=0)

    asyncio.run(main())
    gc.collect()
    assert not unhandled


def test_a_peer_that_reads_slowly_is_sent_to_as_long_as_something_arrives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channel_zmq, "STUCK_S", 0.05)
    looks = iter(range(5))

    async def talk(channel: Channel) -> None:
        channel.moved = lambda: Moved(gone=next(looks, 4) * LEAST_BYTES)
        with pytest.raises(Unavailable, match="stopped reading"):
            await channel.send(Ping())
        assert next(looks, None) is None

    with_unread_channel(talk)


def test_what_had_to_wait_to_be_sent_is_not_kept_for_the_garbage_collector() -> None:
    """An error knows the frames that it went through, and zmq.asyncio's knows the future that has it."""
    payload = bytearray(100_000)

    async def talk(channel: Channel) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await channel.send(Frame(1, len(payload)), memoryview(payload))

    gc.collect()
    gc.disable()
    try:
        with_unread_channel(talk)
        payload.clear()  # refused while anybody has a view of it
    finally:
        gc.enable()
