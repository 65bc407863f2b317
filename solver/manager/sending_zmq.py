"""What a manager says: messages to workers and clients by one ROUTER, whoever of them reads or not."""

import asyncio
import logging
from typing import Final

import zmq
import zmq.asyncio

from filesync.transfer.connection.channel_zmq import send_nowait
from solver.manager.workers import Sent
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
    ) -> Sent:
        """Send a message, if the peer is there and has room for it: nobody waits for that."""
        try:
            self._put(identity, encode(message, payload))
        except zmq.Again:
            log.debug("not sent, the peer does not read")
            return Sent.NO_ROOM
        except zmq.ZMQError as exc:
            log.debug("not sent reason=%s", exc)
            return Sent.GONE
        return Sent.UNDER_WAY

    async def send_all(self, identity: bytes, message: ToClient, payload: bytes) -> None:
        """Send a message, when the client has room for it; not if it is gone.

        Only for the task of that client: it may stand still for as long as its manager bears with it.
        """
        frames = encode(message, payload)
        while True:
            try:
                self._put(identity, frames)
                return
            except zmq.Again:
                await asyncio.sleep(SEND_AGAIN_S)
            except zmq.ZMQError as exc:
                log.debug("not sent reason=%s", exc)
                return

    def _put(self, identity: bytes, frames: list[bytes]) -> None:
        # Else it waits for room where nobody has any, and so does who reads all messages.
        send_nowait(self._socket, [identity, *frames])
        self.sent_bytes += sum(map(len, frames))
