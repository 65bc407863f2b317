"""Requests of other protocols over a connection: answers that are long, late, or cannot be given."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from filesync.errors import MalformedMessage, Unavailable, UsageError
from filesync.transfer.connection import calls_zmq
from filesync.transfer.connection.calls_zmq import Answer, call
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.errors import Refused
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.wire import Reply

LOOPBACK = "tcp://127.0.0.1:0"
LONG = bytes(range(256)) * 10_000


def with_callers(answer: Answer, talk: Callable[[Channel], Awaitable[None]]) -> None:
    """Let ``talk`` ask somebody who has ``answer``."""

    async def main() -> None:
        async with DataPlane(LOOPBACK, answer=answer) as asked, DataPlane() as asking:
            async with asyncio.timeout(30):
                await talk(await asking.connect(asked.address))

    asyncio.run(main())


async def echo(_: Channel, body: bytes) -> tuple[bytes, bytes]:
    return body, LONG[: int(body)]


@pytest.mark.parametrize(
    "size", [0, 1, calls_zmq.PART_BYTES, calls_zmq.PART_BYTES + 1, len(LONG)]
)
def test_an_answer_of_any_length_comes_whole(size: int) -> None:
    async def talk(channel: Channel) -> None:
        body = b"%d" % size
        assert await call(channel, body) == (body, LONG[:size])

    with_callers(echo, talk)


def test_an_answer_that_nobody_may_give_is_an_error_of_who_gives_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls_zmq, "MAX_REPLY_BYTES", len(LONG) - 1)

    async def talk(channel: Channel) -> None:
        with pytest.raises(Refused, match="over the limit"):
            await call(channel, b"%d" % len(LONG))
        assert await call(channel, b"1") == (b"1", LONG[:1])

    with_callers(echo, talk)


def test_an_answer_without_end_is_ended_by_who_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls_zmq, "MAX_REPLY_BYTES", len(LONG))

    async def flood(channel: Channel, _: bytes) -> tuple[bytes, bytes]:
        while True:
            await channel.send(
                Reply(1, b"", more=True), memoryview(LONG)[: calls_zmq.PART_BYTES]
            )
            await asyncio.sleep(0)

    async def talk(channel: Channel) -> None:
        monkeypatch.setattr(calls_zmq, "_ids", iter((1, 2)))
        with pytest.raises(MalformedMessage, match="over the limit"):
            await call(channel, b"")

    with_callers(flood, talk)


def test_answers_that_come_at_once_have_a_bound_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls_zmq, "MAX_REPLIES_BYTES", 3 * calls_zmq.PART_BYTES + 100)

    async def begin(channel: Channel, body: bytes) -> tuple[bytes, bytes]:
        part = memoryview(LONG)[: calls_zmq.PART_BYTES]
        await channel.send(Reply(int(body), b"", more=True), part)
        await asyncio.sleep(0.5)
        return b"", b"the end"

    async def talk(channel: Channel) -> None:
        monkeypatch.setattr(calls_zmq, "_ids", iter(range(1, 6)))
        calls = [call(channel, b"%d" % number) for number in range(1, 6)]
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(one, tuple) for one in ends] == [True, True, True, False, False]
        assert all("at once" in str(one) for one in ends[3:])

    with_callers(begin, talk)


def test_an_answer_that_trickles_is_given_up() -> None:
    async def trickle(channel: Channel, _: bytes) -> tuple[bytes, bytes]:
        while True:
            await channel.send(Reply(1, b"", more=True), memoryview(b"a"))
            await asyncio.sleep(0.01)

    async def talk(channel: Channel) -> None:
        with pytest.raises(Unavailable, match="does not answer"):
            await call(channel, b"", stall_s=0.2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls_zmq, "_ids", iter((1, 2)))
        with_callers(trickle, talk)


def test_a_request_that_breaks_is_one_peers_and_no_secret_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(_: Channel, body: bytes) -> tuple[bytes, bytes]:
        if body:
            raise UsageError("not like this")
        raise ZeroDivisionError("a secret")

    async def talk(channel: Channel) -> None:
        with pytest.raises(Refused, match=r"refused: internal error\Z"):
            await call(channel, b"")
        with pytest.raises(Refused, match="not like this"):
            await call(channel, b"1")

    with caplog.at_level(logging.ERROR):
        with_callers(broken, talk)
    assert "a secret" in caplog.text
