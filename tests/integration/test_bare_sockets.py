"""A data plane against peers that speak to its socket below the level of messages."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from filesync.errors import Unavailable
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.replica import Replica
from filesync.transfer.timeouts import Timeouts
from tests.integration.test_sync_plane import (
    LOOPBACK,
    SMALL,
    forget_peak,
    make_tree,
    peak_bytes,
    pull,
)

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + bytes(32)
GIB = 1 << 30
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def ready(kind: bytes) -> bytes:
    """Return ZMTP's command that ends the handshake of a socket of this kind."""
    body = b"\x05READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind
    return b"\x04" + bytes([len(body)]) + body


def long_frame(size: int) -> bytes:
    """Return the header of a frame of ``size`` bytes, and the first few of them."""
    return b"\x02" + size.to_bytes(8, "big") + bytes(1000)


async def until_closed(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(5):
        try:
            while await reader.read(1 << 16):
                pass
        except ConnectionResetError:
            pass


async def is_served(plane: DataPlane, tmp_path: Path) -> None:
    """Check that an honest peer is served."""
    (tmp_path / "source").mkdir()
    manifest = make_tree(tmp_path / "source", {"a": SMALL})
    with plane.offer(manifest, tmp_path / "source") as offer:
        async with DataPlane() as honest:
            replica = Replica(plane.address, offer.token)
            await pull(honest, tmp_path / "dest", manifest, replica)
    assert (tmp_path / "dest/a").read_bytes() == SMALL


def with_raw_client(tmp_path: Path, talk: Callable[[Stream], Awaitable[None]]) -> None:
    async def main() -> None:
        async with DataPlane(LOOPBACK) as plane:
            port = int(plane.address.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            forget_peak()
            before = peak_bytes()
            await talk((reader, writer))
            await is_served(plane, tmp_path)
            assert peak_bytes() - before < 64 << 20
            writer.close()

    asyncio.run(main())


def test_who_connects_and_says_nothing_holds_up_nobody(tmp_path: Path) -> None:
    async def talk(stream: Stream) -> None:
        pass

    with_raw_client(tmp_path, talk)


def test_half_a_greeting_holds_up_nobody(tmp_path: Path) -> None:
    async def talk(stream: Stream) -> None:
        stream[1].write(GREETING[:30])
        await stream[1].drain()

    with_raw_client(tmp_path, talk)


@pytest.mark.parametrize("size", [3 << 20, GIB, 1 << 40, (1 << 63) - 1])
def test_a_frame_that_is_too_long_by_its_header_costs_the_connection(
    size: int, tmp_path: Path
) -> None:
    async def talk(stream: Stream) -> None:
        reader, writer = stream
        writer.write(GREETING + ready(b"DEALER") + long_frame(size))
        await until_closed(reader)

    with_raw_client(tmp_path, talk)


def test_what_is_no_zeromq_costs_the_connection(tmp_path: Path) -> None:
    async def talk(stream: Stream) -> None:
        reader, writer = stream
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + bytes(200))
        await until_closed(reader)

    with_raw_client(tmp_path, talk)


def pull_from(
    tmp_path: Path, talk: Callable[[Stream], Awaitable[None]], timeouts: Timeouts
) -> None:
    """Pull from a listener that talks as ``talk`` does; it must be called unavailable."""
    manifest = make_tree(tmp_path, {"a": SMALL})
    talks: list[asyncio.Task[None]] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(asyncio.ensure_future(talk_to((reader, writer))))

    async def talk_to(stream: Stream) -> None:
        try:
            await talk(stream)
            await until_closed(stream[0])
        except (OSError, TimeoutError):
            pass
        finally:
            stream[1].close()

    async def main() -> None:
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        forget_peak()
        before = peak_bytes()
        replica = Replica(f"tcp://127.0.0.1:{port}", bytes(16))
        async with DataPlane() as plane:
            with pytest.raises(Unavailable):
                await pull(plane, tmp_path / "dest", manifest, replica, timeouts=timeouts)
        assert peak_bytes() - before < 64 << 20
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)

    asyncio.run(main())


def test_a_listener_that_says_nothing_is_unavailable(tmp_path: Path) -> None:
    async def talk(stream: Stream) -> None:
        pass

    pull_from(tmp_path, talk, Timeouts(opening_s=0.3))


def test_a_listener_that_greets_a_byte_at_a_time_is_unavailable(tmp_path: Path) -> None:
    async def talk(stream: Stream) -> None:
        for byte in GREETING:
            stream[1].write(bytes([byte]))
            await asyncio.sleep(0.1)

    pull_from(tmp_path, talk, Timeouts(opening_s=0.3))


def test_a_listener_whose_frame_is_too_long_is_unavailable(tmp_path: Path) -> None:
    async def talk(stream: Stream) -> None:
        stream[1].write(GREETING + ready(b"ROUTER") + long_frame(GIB))

    pull_from(tmp_path, talk, Timeouts(opening_s=10.0))
