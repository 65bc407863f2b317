"""What one connection to a server of trees has found, or prepared, and not dropped."""

import enum
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filesync.disk.scanning.mounts import Mounts
from filesync.errors import UnexpectedMessage
from filesync.manifest import Manifest, MemoryNodes, empty_manifest
from filesync.manifest.owner import Writer, seem_others
from filesync.sync.filter import Filter
from filesync.sync.part import Part
from filesync.sync.places import Identity, Place
from filesync.sync.remote.growing import GrowingScan
from filesync.sync.remote.telling import Telling
from filesync.sync.scanning import Found, Named, scan_place
from filesync.transfer.coding.recipecache import RecipeCache
from filesync.transfer.send.comparisons import Comparisons, OnCut
from filesync.transfer.send.edits import Edited, Edits
from filesync.transfer.send.fresh import Fresh
from filesync.transfer.send.offer import Offer
from filesync.transfer.send.recent import RECENT_BYTES, Recent

_RECENT_BYTES: Final = 4 << 20
"""Each place of each client has its own."""


class Stage(enum.Enum):
    """How far it is."""

    NEW = enum.auto()
    BUSY = enum.auto()
    SCANNED = enum.auto()
    OPEN = enum.auto()
    CLOSED = enum.auto()


class Held:
    """A place, from the request that found it to the one that drops it.

    While it is ``BUSY`` somebody uses the place: closed meanwhile, it is let go of after that. So it
    is while it is ``OPEN``, but what is known of it may be asked for meanwhile.

    Attributes:
        filter: what the scan leaves out.
        place: None for what a dry run would make.
        part: what of the sync it is.
        mounts: what the scan makes of directories on which another file system is mounted.
        is_offered: it is to be taken from.
        is_claimed: it is to be given to, and nobody else gives to it.
        rename: what the one name that is given is called there.
        takes_additions: it may be added to before it is known what is given.
        is_used: somebody uses the place.
        manifest: what was scanned; until then, nothing.
        of_others: some of that seems to be of a group that who asked for it is not in.
        shut: directories that the manifest lacks as they could not be read, and why (errno).
        edits: what became of what was there at the last scan, if it is to be taken from.
        recent: small files that were not there then.
        growing: the scan, while what it has found so far is being taken.
        telling: of what is being scanned, if that was asked for.
        offer: of what was scanned, or is being scanned; None before that.
        fresh_offer: of what is new in what is being scanned.
        nodes: the manifest's, and those that come for it.
    """

    def __init__(
        self,
        place: Place | None,
        part: Part,
        filter: Filter,
        caches: Path | None,
        *,
        mounts: Mounts = Mounts.ENTERED,
        is_offered: bool = False,
        rename: bytes | None = None,
        is_claimed: bool = False,
        named: Named = Named.FILES,
    ) -> None:
        self.place = place
        self.part = part
        self.mounts = mounts
        self.is_offered = is_offered
        self.is_claimed = is_claimed
        self.rename = rename
        self.nodes = MemoryNodes()
        self.manifest = empty_manifest(self.nodes)
        self.of_others = False
        self.shut: Mapping[bytes, int] = {}
        self.edits = Edited()
        self.recent = Recent(_RECENT_BYTES)
        self.growing: GrowingScan | None = None
        self.telling: Telling | None = None
        self.offer: Offer | None = None
        self.fresh_offer: Offer | None = None
        self.stage = Stage.NEW
        self.filter = filter
        self._caches = caches
        self._comparisons: Comparisons | None = None
        self._named = named
        self.takes_additions = False
        self.is_used = False

    @contextmanager
    def used(self, stage: Stage, *, during: Stage = Stage.BUSY) -> Iterator[None]:
        """Use the place for the block: it is at ``stage``, then ``during``, and ``SCANNED`` at the end.

        Where the block fails, it is at ``stage`` again. Closed meanwhile, it stays closed.

        Raises:
            UnexpectedMessage: it is at another stage.
        """
        if self.stage is not stage:
            raise UnexpectedMessage(
                f"this is {self.stage.name.lower()}, not {stage.name.lower()}"
            )
        self.stage, after = during, stage
        self.is_used = True
        try:
            yield
            after = Stage.SCANNED
        finally:
            self.is_used = False
            if self.stage is Stage.CLOSED:
                self._release()
            else:
                self.stage = after

    def identity(self) -> Identity | None:
        """Return the directory's, where it is all of one."""
        return None if self.place is None or self.place.is_of_files else self.directory

    @property
    def directory(self) -> Identity | None:
        """The one that is claimed, or of which it is names; None where there is none."""
        return None if self.place is None else self.place.identity

    @property
    def is_united(self) -> bool:
        """It is what is in several directories."""
        return self.place is not None and bool(self.place.united)

    def is_bare(self) -> bool:
        """Say whether it is a directory in which there is nothing to scan."""
        return self.place is not None and self.place.is_bare(self.filter)

    def scan(
        self,
        writer: Writer | None = None,
        recipes: RecipeCache | None = None,
        on_cut: OnCut | None = None,
        fresh: Fresh | None = None,
    ) -> Found:
        """Scan the place; return it as ``writer`` is to make it, if there is one. Blocks.

        Of large files that are to be taken, and have changed, ``recipes`` are made (``Comparisons``);
        directories that are new are noted as ``fresh``.
        """
        if self.place is None:
            return Found(self.manifest, {}, {})
        self._comparisons = comparisons = Comparisons(self._caches, recipes, on_cut=on_cut)
        edits = Edits(self._caches, self.recent, comparisons, fresh)
        found = scan_place(
            self.place,
            self.nodes,
            filter=self.filter,
            caches=self._caches,
            watcher=edits if self.is_offered else None,
            named=self._named,
            mounts=self.mounts,
            skip_unreadable=True,
            keep_unreadable=not self.is_offered,
        )
        edits.end()
        # Who takes has most often what was there at the last scan, and asks for nothing else; who has
        # not waits for the index when it first asks, no longer than before.
        self.recent.is_enough = self.recent.has_all
        written = found.written_by(writer, self.nodes)
        # Else the directories are others than whoever asks has had.
        is_same = written.manifest.tree == found.manifest.tree
        self.of_others = not is_same and seem_others(written.manifest)
        remaining = Edited(edits.files, remains=edits.remains)
        self.edits = edits.told(self.nodes) if is_same else remaining
        return written

    def scan_again(self) -> Found:
        """Scan once more what is given to, as it may not be what it was to be. Blocks."""
        if self._comparisons is not None:
            self._comparisons.close()
        return self.scan()

    def grow(self, place: Place, *, among: int) -> GrowingScan:
        """Begin to scan ``place``, which is this, for who takes it meanwhile; in the running loop.

        It is one ``among`` so many, which share what is kept of what they read.
        """
        self.growing = GrowingScan(
            place,
            self.nodes,
            filter=self.filter,
            caches=self._caches,
            mounts=self.mounts,
            dry_run=False,
            recent_bytes=RECENT_BYTES // among,
            copies=self.recent.copies,
        )
        return self.growing

    def scanned(self) -> Manifest:
        """Return what was found.

        Raises:
            UnexpectedMessage: nothing was yet.
        """
        if self.stage not in (Stage.SCANNED, Stage.OPEN):
            raise UnexpectedMessage("nodes were asked for before anything was scanned")
        return self.manifest

    def close(self) -> None:
        """Let go of it, as soon as nobody uses it. Idempotent."""
        if self.stage is not Stage.CLOSED:
            self.stage = Stage.CLOSED
            for offer in (self.offer, self.fresh_offer):
                if offer is not None:
                    offer.close()
            self.recent.close()
            if self._comparisons is not None:
                self._comparisons.close()
            if self.growing is not None:
                self.growing.tree.close()
            if not self.is_used:
                self._release()

    def _release(self) -> None:
        if self.place is not None:
            self.place.close()
