"""What is left of connections that are over, and who may go on where another has been."""

import asyncio
import gc
import socket
import threading
import time
from pathlib import Path

import pytest
import zmq
import zmq.asyncio

from filesync.errors import Unavailable, UnexpectedMessage, UsageError
from filesync.keys.files import KeyPair, make_key
from filesync.transfer import wire
from filesync.transfer.connection.calls_zmq import call
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.connection.curve_zmq import dial
from filesync.transfer.connection.guard import REFUSAL_S
from filesync.transfer.connection.link_zmq import Link
from filesync.transfer.connection.served import MAX_SERVED
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.replica import Replica
from tests.integration.test_hostile_sockets import frame, greeting, hello, read, ready
from tests.integration.test_sync_plane import LOOPBACK, make_tree, pull


async def echo(_: Channel, body: bytes) -> tuple[bytes, bytes]:
    return body, b""


def test_one_connection_serves_any_number_of_trees_one_after_another(tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source", {"file": b"content"})

    async def main() -> None:
        async with DataPlane() as sender, DataPlane(LOOPBACK) as receiver:
            channel = await sender.connect(receiver.address)
            for _ in range(MAX_SERVED + 10):
                with sender.offer(source, tmp_path / "source") as offer:
                    await sender.announce(channel, offer)
            with sender.offer(source, tmp_path / "source") as offer:
                await sender.announce(channel, offer)
                await pull(receiver, tmp_path / "dest", source, Replica(None, offer.token))

    asyncio.run(main())
    assert (tmp_path / "dest/file").read_bytes() == b"content"


def test_connections_that_were_lost_leave_nothing_behind() -> None:
    async def dial_and_lose(plane: DataPlane) -> None:
        lost = asyncio.Event()
        async with DataPlane(LOOPBACK) as other:
            channel = await plane.connect(other.address)
            channel.on_lost.append(lambda _: lost.set())
        await lost.wait()

    async def main() -> None:
        async with DataPlane() as plane:
            for _ in range(10):
                await dial_and_lose(plane)
            await asyncio.sleep(0.2)  # what was called for later holds on to them until then
            gc.collect()
            assert not [one for one in gc.get_objects() if isinstance(one, Link)]

    asyncio.run(main())


def test_a_data_plane_that_is_closed_dials_nobody_and_ends() -> None:
    async def main() -> list[str]:
        said: list[str] = []
        asked = asyncio.Event()

        async def answer(_channel: Channel, body: bytes) -> tuple[bytes, bytes]:
            asked.set()
            try:
                await asyncio.sleep(60)
            finally:
                try:
                    await closing.connect(other.address)
                except Unavailable as exc:
                    said.append(str(exc))
            return body, b""

        async with DataPlane(LOOPBACK) as other, DataPlane() as peer:
            closing = DataPlane(LOOPBACK, answer=answer)
            async with asyncio.timeout(20):
                async with closing:
                    channel = await peer.connect(closing.address)
                    await channel.send(wire.Call(1, b"now"))
                    await asked.wait()
        return said

    assert asyncio.run(main()) == ["this process has closed its data plane"]


def test_a_data_plane_that_cannot_listen_leaves_nothing_behind(tmp_path: Path) -> None:
    own = make_key(tmp_path / "key", name="server")
    allows = {own.public}.__contains__

    async def main() -> None:
        async with DataPlane(LOOPBACK, own=own, allows=allows) as plane:
            before = set(threading.enumerate()), asyncio.all_tasks()
            taken = plane.address.replace(f"{own.public.hex()}@", "")
            with pytest.raises(UsageError, match="in use"):
                await DataPlane(taken, own=own, allows=allows).__aenter__()
            await asyncio.sleep(0.1)
            assert (set(threading.enumerate()), asyncio.all_tasks()) == before

    asyncio.run(main())


class KeyedPeer:
    """A DEALER with a key and a name of its own choice."""

    def __init__(self, context: zmq.asyncio.Context, address: str, own: KeyPair) -> None:
        self._socket = context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.setsockopt(zmq.ROUTING_ID, b"the same")
        dial(self._socket, address, own)

    async def say(self, message: wire.Message) -> wire.Message:
        """Say it; return what comes then."""
        await self._socket.send_multipart(wire.encode(message))
        async with asyncio.timeout(5):
            return wire.decode(await self._socket.recv_multipart())[0]

    def close(self) -> None:
        self._socket.close()


def test_who_takes_the_name_of_a_peer_that_is_gone_takes_not_its_place(tmp_path: Path) -> None:
    keys = [make_key(tmp_path / name, name=name) for name in ("server", "one", "other")]

    async def main() -> wire.Message:
        allows = {pair.public for pair in keys}.__contains__
        context = zmq.asyncio.Context()
        async with DataPlane(LOOPBACK, answer=echo, own=keys[0], allows=allows) as plane:
            first = KeyedPeer(context, plane.address, keys[1])
            assert isinstance(await first.say(wire.Hello(wire.VERSION)), wire.Hello)
            assert isinstance(await first.say(wire.Call(1, b"mine")), wire.Reply)
            first.close()
            await asyncio.sleep(0.2)
            second = KeyedPeer(context, plane.address, keys[2])
            try:
                return await second.say(wire.Call(1, b"yours"))
            finally:
                second.close()
                context.destroy(linger=0)

    answer = asyncio.run(main())
    assert isinstance(answer, wire.Refuse)
    assert answer.code == UnexpectedMessage.code


def test_what_one_who_is_gone_has_said_is_not_held_against_whom_comes_next() -> None:
    def handshake(address: str) -> socket.socket:
        peer = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
        peer.settimeout(10)
        peer.sendall(greeting(b"NULL") + ready())
        read(peer, 64 + len(ready()))
        return peer

    def is_open(peer: socket.socket) -> bool:
        peer.settimeout(0.2)
        try:
            while peer.recv(4096):
                pass
        except TimeoutError:
            return True
        return False

    def one_after_another(address: str) -> socket.socket:
        """Stop the event loop, as if it were busy; the second has the descriptor of the first."""
        gone = handshake(address)
        gone.sendall(frame(b"no message"))
        gone.close()
        time.sleep(0.2)
        peer = handshake(address)
        peer.sendall(hello())
        return peer

    async def main() -> None:
        async with DataPlane(LOOPBACK) as plane:
            peer = one_after_another(plane.address)
            await asyncio.sleep(REFUSAL_S + 1)
            with peer:
                assert is_open(peer)

    asyncio.run(main())


def test_who_is_cancelled_while_a_plane_closes_leaves_nothing_open() -> None:
    async def stubborn(_: Channel, body: bytes) -> tuple[bytes, bytes]:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.1)
        return body, b""

    async def main() -> None:
        serving = DataPlane(LOOPBACK, answer=stubborn)
        leave = asyncio.Event()

        async def serve() -> None:
            async with serving:
                await leave.wait()

        task = asyncio.create_task(serve())
        await asyncio.sleep(0)
        async with DataPlane() as plane:
            channel = await plane.connect(serving.address)
            asking = asyncio.create_task(call(channel, b"body"))
            await asyncio.sleep(0.1)
            leave.set()
            await asyncio.sleep(0.02)
            assert not task.done()
            task.cancel()
            await asyncio.wait({task, asking})
        assert task.cancelled()
        assert serving._context.closed
        assert "filesync-guard" not in [thread.name for thread in threading.enumerate()]

    asyncio.run(main())
