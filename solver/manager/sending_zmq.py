"""What a manager says: messages to workers and clients by one ROUTER, whoever of them reads or not."""

import asyncio
import logging
from typing import Final

import zmq
import zmq.asyncio

from solver.wire import ToClient, encode
from worker.wire.orders import ToWorker

log = logging.getLogger(__name__)

SEND_AGAIN_S: Final = 0.02
"""A client that has not taken what was sent to it is tried again after so long."""


class Sending:
    """Sends by a ROUTER with ROUTER_MANDATORY, which tells of peers that are gone or full.

    Attributes:
        sent_bytes: of all messages so far.
    """

    def __init__(self, socket: zmq.asyncio.Socket) -> None:
        self.sent_bytes = 0
        self._socket = socket

    async def send(
        self, identity: bytes, message: ToClient | ToWorker, payload: bytes = b""
    ) -> None:
        """Send a message, unless the peer is gone or does not read: nobody waits for it."""
        await self._try(identity, encode(message, payload))

    async def send_all(self, identity: bytes, message: ToClient, payload: bytes) -> None:
        """Send a message, when the client has room for it; not if it is gone.

        Only for the task of that client: it may stand still for as long as its manager bears with it.
        """
        frames = encode(message, payload)
        while True:
            if await self._try(identity, frames):
                return
            await asyncio.sleep(SEND_AGAIN_S)

    async def _try(self, identity: bytes, frames: list[bytes]) -> bool:
        """Send frames; say whether another try is worth it no more."""
        try:
            await self._socket.send_multipart([identity, *frames])
        except zmq.Again:
            log.debug("not sent, the peer does not read")
            return False
        except zmq.ZMQError as exc:
            # ROUTER_MANDATORY: the peer's connection is gone; its silence will be noticed.
            log.debug("not sent reason=%s", exc)
            return True
        self.sent_bytes += sum(map(len, frames))
        return True
