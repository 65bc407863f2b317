"""What the guard believes messages to take on the wire is what they take."""

import asyncio

import pytest
import zmq
import zmq.asyncio

from filesync.transfer.connection.channel_zmq import wire_bytes_of

LENGTHS = [0, 1, 33, 221, 222, 223, 254, 255, 256, 5_000, 1 << 20]


class Relay:
    """Passes bytes on to a port and counts those of who has dialled."""

    def __init__(self, port: int) -> None:
        self.count = 0
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _relay(self, here: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        try:
            there, on = await asyncio.open_connection("127.0.0.1", self._port)
        except BaseException:  # who has dialled when all is over
            back.transport.abort()
            raise
        for reader, writer, counts in ((here, on, True), (there, back, False)):
            self._tasks.add(asyncio.create_task(self._pass(reader, writer, counts=counts)))

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counts: bool
    ) -> None:
        try:
            while data := await reader.read(1 << 16):
                self.count += len(data) if counts else 0
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_a_messages_bytes_on_the_wire_are_known_by_its_frames(is_encrypted: bool) -> None:
    async def main() -> None:
        context = zmq.asyncio.Context()
        router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
        if is_encrypted:
            router.curve_server = True
            dealer.curve_serverkey, router.curve_secretkey = zmq.curve_keypair()
            dealer.curve_publickey, dealer.curve_secretkey = zmq.curve_keypair()
        relay = Relay(router.bind_to_random_port("tcp://127.0.0.1"))
        try:
            dealer.connect(f"tcp://127.0.0.1:{await relay.start()}")
            await dealer.send_multipart([b"after the handshake"])
            await router.recv_multipart()
            for length in LENGTHS:
                before = relay.count
                await dealer.send_multipart([b"header", bytes(length)])
                await router.recv_multipart()
                expected = wire_bytes_of([6, length], is_encrypted=is_encrypted)
                assert relay.count - before == expected
        finally:
            context.destroy(linger=0)
            await relay.close()

    asyncio.run(asyncio.wait_for(main(), 30))
