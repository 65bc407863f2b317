"""What is said before the other side has greeted: it goes along with the greeting."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import zmq
import zmq.asyncio

from filesync.errors import Unavailable
from filesync.transfer.connection import calls_zmq
from filesync.transfer.connection.channel_zmq import EARLY_BYTES, Channel
from filesync.transfer.errors import Refused
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.replica import Replica
from filesync.transfer.timeouts import Timeouts
from filesync.transfer.wire import (
    VERSION,
    Call,
    Hello,
    Message,
    Open,
    Refuse,
    Reply,
    Serve,
    decode,
    encode,
)
from tests.integration.test_sync_plane import LOOPBACK, make_tree, pull


class Listening:
    """A peer that says what a test has it say, and nothing by itself."""

    def __init__(self, socket: zmq.asyncio.Socket) -> None:
        self.address = str(socket.getsockopt_string(zmq.LAST_ENDPOINT))
        self._socket = socket
        self._peer = b""

    async def next(self) -> Message:
        self._peer, *frames = await self._socket.recv_multipart()
        return decode([memoryview(frame) for frame in frames])[0]

    async def say(self, message: Message) -> None:
        await self._socket.send_multipart([self._peer, *encode(message)])

    async def is_silent(self, seconds: float = 0.3) -> bool:
        return not await self._socket.poll(int(1000 * seconds))


@asynccontextmanager
async def listening() -> AsyncIterator[Listening]:
    with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.linger = 0
        socket.bind(LOOPBACK)
        async with asyncio.timeout(20):
            yield Listening(socket)


def test_a_small_request_goes_with_the_greeting() -> None:
    async def main() -> tuple[bytes, bytes]:
        async with listening() as peer, DataPlane() as plane:
            asking = asyncio.create_task(calls_zmq.call(plane.dial(peer.address), b"ask"))
            assert await peer.next() == Hello(VERSION)
            call = await peer.next()
            assert isinstance(call, Call)
            assert call.body == b"ask"
            await peer.say(Hello(VERSION))
            await peer.say(Reply(call.call, b"answer"))
            return await asking

    assert asyncio.run(main()) == (b"answer", b"")


def test_a_large_request_waits_for_the_answer_to_the_greeting() -> None:
    async def main() -> bytes:
        async with listening() as peer, DataPlane() as plane:
            channel, body = plane.dial(peer.address), bytes(EARLY_BYTES)
            asking = asyncio.create_task(calls_zmq.call(channel, body))
            assert await peer.next() == Hello(VERSION)
            assert await peer.is_silent()
            await peer.say(Hello(VERSION))
            call = await peer.next()
            assert isinstance(call, Call)
            await peer.say(Reply(call.call, b"answer"))
            await asking
            return call.body

    assert asyncio.run(main()) == bytes(EARLY_BYTES)


def test_many_small_requests_are_not_more_together_before_the_greeting() -> None:
    async def main() -> int:
        async with listening() as peer, DataPlane() as plane:
            channel = plane.dial(peer.address)
            asking = [
                asyncio.create_task(calls_zmq.call(channel, bytes(200))) for _ in range(100)
            ]
            count = 0
            while not await peer.is_silent():
                await peer.next()
                count += 1
            for one in asking:
                one.cancel()
            await asyncio.wait(asking)
            return count

    assert 2 < asyncio.run(main()) <= EARLY_BYTES // 200 + 1


def test_an_offer_goes_with_the_greeting(tmp_path: Path) -> None:
    async def main() -> list[Message]:
        async with listening() as peer, DataPlane() as plane:
            manifest = make_tree(tmp_path, {"f": b"x"})
            offer = plane.offer(manifest, tmp_path, token=b"t" * 16)
            serving = asyncio.create_task(plane.serve_to(peer.address, offer))
            said = [await peer.next() for _ in range(2)]
            offer.close()
            await asyncio.wait([serving])
            return said

    assert asyncio.run(main()) == [Hello(VERSION), Serve(b"t" * 16)]


def test_a_peer_that_never_greets_is_given_up() -> None:
    async def main() -> None:
        async with listening() as peer, DataPlane() as plane:
            channel = plane.dial(peer.address, timeouts=Timeouts(opening_s=0.2))
            with pytest.raises(Unavailable, match="does not answer"):
                await calls_zmq.call(channel, b"ask")

    asyncio.run(main())


def test_a_peer_of_another_version_refuses_what_came_along() -> None:
    async def main() -> None:
        async with listening() as peer, DataPlane() as plane:
            asking = asyncio.create_task(calls_zmq.call(plane.dial(peer.address), b"ask"))
            await peer.next()
            await peer.say(Refuse(0, "version", "this side speaks another"))
            with pytest.raises(Refused, match="another"):
                await asking

    asyncio.run(main())


def test_a_real_listener_answers_what_came_with_the_greeting() -> None:
    async def echo(_: Channel, body: bytes) -> tuple[bytes, bytes]:
        return body, b""

    async def main() -> bytes:
        async with DataPlane(LOOPBACK, answer=echo) as other, DataPlane() as plane:
            answer, _ = await calls_zmq.call(plane.dial(other.address), b"ask")
            return answer

    assert asyncio.run(main()) == b"ask"


def test_a_data_plane_that_has_just_dialled_can_be_closed_at_once() -> None:
    async def main() -> Channel:
        async with listening() as peer, DataPlane() as plane:
            return plane.dial(peer.address)

    assert asyncio.run(main()).lost is not None


async def pull_one(plane: DataPlane, root: Path, address: str, *, opening_s: float) -> None:
    """Pull a file from who is dialled at ``address``."""
    tree = make_tree(root / "source", {"file": b"content"})
    timeouts = Timeouts(opening_s=opening_s)
    await pull(plane, root / "dest", tree, Replica(address, bytes(16)), timeouts=timeouts)


def test_the_only_replica_is_named_when_it_never_greets(tmp_path: Path) -> None:
    async def main() -> None:
        async with listening() as peer, DataPlane() as plane:
            with pytest.raises(Unavailable, match=f"{peer.address} does not answer"):
                await pull_one(plane, tmp_path, peer.address, opening_s=0.2)

    asyncio.run(main())


def test_the_only_replica_has_its_time_to_open_from_its_greeting_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with listening() as peer, DataPlane() as plane:
            pulling = asyncio.create_task(
                pull_one(plane, tmp_path, peer.address, opening_s=1.0)
            )
            await peer.next()
            opening = await peer.next()
            assert isinstance(opening, Open)
            await asyncio.sleep(0.7)
            await peer.say(Hello(VERSION))
            await asyncio.sleep(0.7)
            await peer.say(Refuse(opening.session, "not-offered", "this is the answer"))
            with pytest.raises(Refused, match="this is the answer"):
                await pulling

    asyncio.run(main())
