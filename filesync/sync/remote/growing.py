"""The scan of what is given: whole in the end, and directory by directory until then."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Final

from filesync.disk.scanning.mounts import Mounts
from filesync.manifest.tree import Nodes
from filesync.sync.filter import Filter
from filesync.sync.places import Place
from filesync.sync.remote import wire
from filesync.sync.remote.cuts import Cuts
from filesync.sync.remote.telling import Telling
from filesync.transfer.send.growing import GrowingTree
from filesync.transfer.threads import in_thread

if TYPE_CHECKING:
    from filesync.sync.scanning import Found
    from filesync.transfer.send.copies import Copies

PATIENCE_S: Final = 5.0
"""Who asks for directories is told sooner or later that there are none yet, and asks again."""


class GrowingScan:
    """A scan in a thread, for the loop that it was begun in.

    Attributes:
        task: gives what was found; await it, or cancel it and wait for its end.
        tree: what was done so far.
        cuts: large files that it finds changed.
        telling: of what it finds new.
    """

    def __init__(
        self,
        place: Place,
        nodes: Nodes,
        *,
        filter: Filter,
        caches: Path | None,
        mounts: Mounts,
        dry_run: bool,
        recent_bytes: int,
        copies: "Copies | None",
    ) -> None:
        """Begin; what is read is copied to ``copies``.

        After a ``dry_run`` the next scan finds the same changes, so that it can tell of them.
        """
        loop = asyncio.get_running_loop()
        self._more = asyncio.Event()
        self.cuts = Cuts(depth=place.depth)

        def tell() -> None:
            loop.call_soon_threadsafe(self._more.set)

        self.tree = GrowingTree(
            nodes,
            tell,
            caches,
            recent_bytes=recent_bytes,
            copies=copies,
            on_cut=self.cuts.note,
        )
        self.task: asyncio.Task[Found] = asyncio.create_task(
            in_thread(_scan, place, nodes, filter, caches, mounts, self.tree, dry_run)
        )
        self.telling = Telling(self.tree.fresh, self.task)

    async def directories(self) -> tuple[wire.Directories, bytes]:
        """Return what was done since the last time, if need be a while later.

        Raises:
            StoreError: something cannot be read; see ``scan_place``.
        """
        more = asyncio.create_task(self._more.wait())
        try:
            await asyncio.wait(
                {more, self.task},
                timeout=PATIENCE_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            more.cancel()
        if self.task.done():
            self.task.result()
        self._more.clear()
        return await in_thread(_hand_on, self.tree)


def _scan(
    place: Place,
    nodes: Nodes,
    filter: Filter,
    caches: Path | None,
    mounts: Mounts,
    growing: GrowingTree,
    dry_run: bool,
) -> "Found":
    # What this needs is imported while the server is being called.
    from filesync.sync.scanning import scan_place

    found = scan_place(
        place,
        nodes,
        filter=filter,
        caches=caches,
        watcher=growing,
        mounts=mounts,
        skip_unreadable=True,
        spare_changed=dry_run,
    )
    growing.end(found.manifest.tree)
    return found


def _hand_on(growing: GrowingTree) -> tuple[wire.Directories, bytes]:
    from filesync.manifest.pack import pack_directories

    handed = growing.take()
    payload = pack_directories(handed.directories) if handed.directories else b""
    return wire.Directories(handed.tree, begun=tuple(growing.fresh.take_begun())), payload
