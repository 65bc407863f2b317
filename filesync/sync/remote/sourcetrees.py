"""The trees of what is given to a server: as they are here, and as they are to be there."""

import asyncio
from typing import TYPE_CHECKING

from filesync.disk.scanning.mounts import Mounts
from filesync.manifest.owner import Writer, as_written_by, seem_others
from filesync.manifest.tree import Manifest, Nodes
from filesync.sync.filter import MAX_RULES, Filter
from filesync.sync.options import NewOwner, Options
from filesync.sync.part import Parts, Removal
from filesync.sync.remote import fields, wire
from filesync.sync.remote.asking import too_old
from filesync.sync.remote.growing import GrowingScan
from filesync.sync.shadow import removal_of, shadowing, unshadowed
from filesync.sync.source import Sources
from filesync.sync.sparing import sparing_of, too_many_mounts
from filesync.transfer.send.recent import RECENT_BYTES
from filesync.transfer.threads import in_thread, until_done

if TYPE_CHECKING:
    from filesync.transfer.send.copies import Copies


class SourceTrees:
    """The trees of ``sources``, by their place among these. Each is scanned once.

    Attributes:
        writer: who writes there, where that user cannot give files away; set it before trees are asked.
    """

    def __init__(self, sources: Sources, options: Options, nodes: Nodes) -> None:
        """``nodes`` gets all that the trees need."""
        self.writer: Writer | None = None
        self._sources = sources.found
        self._missing = sources.missing
        self._parts = Parts(source.part for source in sources.found)
        self._options = options
        self._nodes = nodes
        self._written: dict[int, Manifest] = {}
        self._is_changed: dict[int, bool] = {}  # it is another tree as ``writer`` makes it
        self._scans: dict[int, GrowingScan] = {}

    def scan(self, at: int) -> GrowingScan:
        """Return the scan of a source, begun now if it was not."""
        if at not in self._scans:
            self._scans[at] = GrowingScan(
                self._sources[at].place,
                self._nodes,
                filter=self.filter(at),
                caches=self._options.used_caches,
                mounts=self._options.mounts,
                dry_run=self._options.dry_run,
                recent_bytes=RECENT_BYTES // len(self._sources),
                copies=self._copies(),
            )
        return self._scans[at]

    def _copies(self) -> "Copies | None":
        if not self._options.afresh or self._options.caches is None:
            return None
        from filesync.transfer.send.copies import Copies

        return Copies(self._options.caches)

    def filter(self, at: int) -> Filter:
        """Return what is left out of a source."""
        return self._options.filter(self._parts[at].prefix)

    async def stop(self) -> None:
        """Let no scan go on, nor anything stay that it has read, however often this is cancelled.

        Whoever closes the sources must wait for this.
        """
        tasks = [scan.task for scan in self._scans.values()]
        for task in tasks:
            task.cancel()
        try:
            await until_done(asyncio.gather(*tasks, return_exceptions=True))
        finally:
            for scan in self._scans.values():
                scan.tree.close()

    async def coming(self, at: int, new_owner: fields.NewOwner | None) -> Manifest:
        """Return what comes of a source: not what another source covers, and as whose it is to be.

        Raises:
            SourceChanged, StoreError: see ``scan_place``.
        """
        tops = {at: await self._top(at)} | await self._shadowing(at)
        top = await in_thread(unshadowed, self._parts, at, tops, self._nodes)
        if new_owner is None:
            return top
        from filesync.sync.owner import given_to

        return await in_thread(given_to, NewOwner(*new_owner), top, self._nodes)

    def seem_others(self, at: int, given: Manifest) -> bool:
        """Say whether something in ``given``, which comes of a source, is of ``OTHERS``. Blocks."""
        return self._is_changed[at] and seem_others(given)

    def likely_there(self, at: int, given: Manifest, group: int | None) -> Manifest:
        """Return the tree that is there if ``given``, which comes of a source, was given before.

        What is of ``OTHERS`` in it most likely got ``group`` there.
        """
        if self.writer is None or group is None or not self.seem_others(at, given):
            return given
        return as_written_by(self.writer, given, self._nodes, others=group)

    async def removal(self, at: int, given: Manifest, there: wire.Scanned) -> Removal | None:
        """Return what is deleted ``there``, where ``given`` comes of a source; None for nothing.

        Raises:
            UsageError: too much is mounted, or the server does not say what.
        """
        if not await self._deletes():
            return None
        tops = await self._shadowing(at)
        if self._options.mounts_there is Mounts.NOTED and there.mounts is None:
            raise too_old("--one-file-system")
        trees = {at: given} | tops
        met = {number: (await self.scan(number).task).mounts for number in trees}
        rules = sparing_of(
            self._options.kept, self._parts, at, trees, met=met, there=there.mounts or ()
        )
        if there.unnamed_mounts or len(rules) > MAX_RULES:
            raise too_many_mounts()
        return removal_of(self._parts, at, given, tops, rules, self._nodes)

    async def _top(self, at: int) -> Manifest:
        """Return the tree of a source, as it can be kept there."""
        if at not in self._written:
            found = await self.scan(at).task
            written = await in_thread(found.written_by, self.writer, self._nodes)
            self._written[at] = written.manifest
            self._is_changed[at] = written.manifest.tree != found.manifest.tree
        return self._written[at]

    async def _shadowing(self, at: int) -> dict[int, Manifest]:
        return {number: await self._top(number) for number in shadowing(self._parts, at)}

    async def _deletes(self) -> bool:
        """Say whether to delete: not if a part could not be read; what seems gone may be there."""
        if not self._options.delete or self._missing:
            return False
        for at in range(len(self._parts)):
            self.scan(at).tree.forget()
            if (await self.scan(at).task).unreadable:
                return False
        return True
