"""Trees that peers have on offer who cannot be dialled: they have dialled, and said ``Serve``."""

import asyncio
from typing import Final

from filesync.errors import Unavailable
from filesync.transfer.connection.channel_zmq import Channel

MAX_SERVED: Final = 1024
"""Trees that one peer has on offer at once."""
MAX_LOST: Final = 1024
"""Trees of peers that are gone, of which it is remembered."""


class ServedTrees:
    """By which connection each of them is to be had."""

    def __init__(self) -> None:
        self._channels: dict[bytes, Channel] = {}
        self._awaited: dict[bytes, set[asyncio.Event]] = {}
        self._lost: dict[bytes, None] = {}

    def note(self, channel: Channel, token: bytes) -> None:
        """Take note that the peer has the tree ``token``, as long as it is there."""
        if not channel.served:
            channel.on_lost.append(lambda _: self._lose(channel))
        channel.served[token] = None
        self._channels[token] = channel
        self._lost.pop(token, None)
        if len(channel.served) > MAX_SERVED:
            # Nobody says when an offer is closed; the oldest will be by now.
            oldest = next(iter(channel.served))
            del channel.served[oldest]
            self._forget(channel, oldest)
        for arrived in self._awaited.get(token, ()):
            arrived.set()

    async def wait_for(self, token: bytes, serve_s: float) -> Channel:
        """Wait for a peer to have the tree ``token``; return the connection to it.

        Raises:
            Unavailable: nobody says so within ``serve_s``; or who did is gone: nobody dials
                again for the same tree.
        """
        arrived = asyncio.Event()
        waiting = self._awaited.setdefault(token, set())
        waiting.add(arrived)
        try:
            async with asyncio.timeout(serve_s):
                while (
                    channel := self._channels.get(token)
                ) is None or channel.lost is not None:
                    if token in self._lost:
                        raise Unavailable("the peer that has the files is gone")
                    arrived.clear()
                    await arrived.wait()
        except TimeoutError:
            raise Unavailable("the peer that has the files did not call") from None
        finally:
            waiting.remove(arrived)
            if not waiting:
                del self._awaited[token]
        return channel

    def _lose(self, channel: Channel) -> None:
        for token in channel.served:
            if self._forget(channel, token):
                self._lost[token] = None
                for arrived in self._awaited.get(token, ()):
                    arrived.set()
        while len(self._lost) > MAX_LOST:
            del self._lost[next(iter(self._lost))]

    def _forget(self, channel: Channel, token: bytes) -> bool:
        """Forget a tree, unless another peer has it by now."""
        is_theirs = self._channels.get(token) is channel
        if is_theirs:
            del self._channels[token]
        return is_theirs
