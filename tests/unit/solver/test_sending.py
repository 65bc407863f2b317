"""What a manager says to who does not read."""

import gc
import sys

import zmq
import zmq.asyncio

from solver.manager.sending_zmq import Sending
from solver.manager.workers import Sent
from worker.wire.orders import Alive


async def test_what_a_client_has_no_room_for_is_not_kept_for_the_garbage_collector() -> None:
    context = zmq.asyncio.Context()
    router, client = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    router.router_mandatory = True
    router.sndhwm = client.rcvhwm = 1
    client.routing_id = b"client"
    payload = bytes(100_000)
    gc.collect()
    gc.disable()
    try:
        router.bind("inproc://manager")
        client.connect("inproc://manager")
        await client.send(b"")
        await router.recv_multipart()
        sending = Sending(router)
        while await sending.send(b"client", Alive(), payload) is not Sent.NO_ROOM:
            pass
        before = sys.getrefcount(payload)
        for _ in range(10):
            assert await sending.send(b"client", Alive(), payload) is Sent.NO_ROOM
        assert sys.getrefcount(payload) == before
    finally:
        gc.enable()
        context.destroy(linger=0)
