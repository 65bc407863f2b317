"""What a scan finds new, told to who asks while it lasts."""

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Final

from filesync.sync.remote import fields, wire
from filesync.transfer.threads import in_thread

if TYPE_CHECKING:
    from filesync.sync.scanning import Found
    from filesync.transfer.send.fresh import Fresh

ADD_AFTER_S: Final = 0.1
"""A scan of less is over before much of what it has found could be there."""
PACE_S: Final = 0.2
"""So much of a scan is worth a turn of telling, pulling and writing."""


class Telling:
    """Tells what is ``fresh``, until the ``scan`` has ended."""

    def __init__(self, fresh: "Fresh", scan: "asyncio.Future[Found]") -> None:
        self._fresh = fresh
        self._scan = scan
        self._told_at = 0.0

    async def directories(self) -> wire.Directories:
        """Return what is new since the last time, if need be a while later: directories, and files that are read.

        Raises:
            FilesyncError: the scan has failed.
        """
        left_s = max(0, self._told_at + PACE_S - monotonic())
        await asyncio.wait({self._scan}, timeout=left_s)
        if self._scan.done():
            return wire.Directories(self._scan.result().manifest.tree)
        self._told_at = monotonic()
        return wire.Directories(
            begun=tuple(self._fresh.take_begun()),
            fresh=tuple(await in_thread(self._fresh.take, fields.MAX_FRESH)),
        )
