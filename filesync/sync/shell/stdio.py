"""A server for the one peer at the other end of standard input and output."""

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

from filesync.process.lifetime import wait_for_end
from filesync.sync.shell.relay import Relay
from filesync.transfer.connection.calls_zmq import Answer
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.connection.unix import remove_sockets, socket_directory
from filesync.transfer.plane_zmq import DataPlane


async def serve_stdio(answer: Answer, use: Callable[[DataPlane], object]) -> None:
    """Answer the peer until it closes standard input, or this process is told to end.

    ``use`` is given the data plane first, over which to send and pull.
    """
    source, sink = sys.stdin.fileno(), os.dup(sys.stdout.fileno())
    # Whatever else is printed must not come between the peer's bytes.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    loop = asyncio.get_running_loop()
    is_over = asyncio.Event()

    async def answered(channel: Channel, body: bytes) -> tuple[bytes, bytes]:
        channel.moved = lambda: relay.moved  # nobody else can tell
        return await answer(channel, body)

    def end() -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(is_over.set)

    with socket_directory() as directory:
        path = directory / "socket"
        async with DataPlane(f"ipc://{path}", answer=answered) as plane:
            use(plane)
            own = socket.socket(socket.AF_UNIX)
            own.connect(os.fsencode(path))
            remove_sockets(directory)
            relay = Relay(own, source, sink, on_end=end)
            relay.start()
            endings = [asyncio.create_task(one) for one in (is_over.wait(), wait_for_end())]
            await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)
            for one in endings:
                one.cancel()
            await asyncio.wait(endings)
            relay.close()
