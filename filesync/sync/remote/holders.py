"""Who holds which places of a server of trees."""

from typing import Final
from weakref import WeakSet

from filesync.process.entropy import random_bytes
from filesync.process.memory import GivingBack
from filesync.sync.places import Identity
from filesync.sync.remote.held import Held
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.errors import NotOffered, TooMuchWanted
from filesync.transfer.send.offer import TOKEN_BYTES

MAX_HELD: Final = 64
"""Places that one peer may hold at once; each costs a descriptor, those of directories that were read
last (``SourceTree``), and its manifest in memory."""


class Holders:
    """What each connection has found, or prepared, and not dropped; it ends with the connection."""

    def __init__(self) -> None:
        self._helds: dict[Channel, dict[bytes, Held]] = {}
        self._lost: WeakSet[Held] = WeakSet()  # what is being given to by lost peers
        self._memory = GivingBack()

    def hold(self, channel: Channel, *helds: Held) -> list[bytes]:
        """Keep ``helds`` for ``channel``, all of them or none; return their tokens.

        Raises:
            TooMuchWanted: it would be more than it may hold, or the peer is gone.
        """
        mine = self._helds.get(channel, {})
        if len(mine) + len(helds) > MAX_HELD or channel.lost is not None:
            for held in helds:
                held.close()
            raise TooMuchWanted(f"more than {MAX_HELD} directories at once; name fewer")
        if channel not in self._helds:
            self._helds[channel] = mine
            channel.on_lost.append(lambda _: self._drop_all(channel))
        tokens = [random_bytes(TOKEN_BYTES) for _ in helds]
        mine.update(zip(tokens, helds, strict=True))
        return tokens

    def find(self, channel: Channel, token: bytes) -> Held:
        """Return what ``channel`` holds by ``token``.

        Raises:
            NotOffered: nothing.
        """
        held = self._helds.get(channel, {}).get(token)
        if held is None:
            raise NotOffered("this token is none of yours")
        return held

    def is_growing(self, channel: Channel) -> bool:
        """Say whether ``channel`` holds what it takes while that is scanned."""
        return any(held.growing is not None for held in self._helds.get(channel, {}).values())

    @property
    def growing_count(self) -> int:
        """How many places are held that are taken while they are scanned."""
        return sum(map(self.is_growing, self._helds))

    def drop(self, channel: Channel, token: bytes) -> None:
        """Let go of what ``channel`` holds by ``token``, if it does."""
        if held := self._helds.get(channel, {}).pop(token, None):
            held.close()

    def is_losing(self, directory: Identity) -> bool:
        """Say whether a peer is gone that gave to ``directory``, which is still being used."""
        return any(held.is_used and held.directory == directory for held in self._lost)

    def giver(self, directory: Identity) -> Channel | None:
        """Return who gives to ``directory``; None where it is no peer of this."""
        for channel, helds in self._helds.items():
            if any(held.is_claimed and held.directory == directory for held in helds.values()):
                return channel
        return None

    def _drop_all(self, channel: Channel) -> None:
        for held in self._helds.pop(channel, {}).values():
            held.close()
            if held.is_claimed and held.is_used:
                self._lost.add(held)
        self._memory.note_end()
