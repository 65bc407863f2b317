"""What takes disk in a worker's store, counted and removed; what goes is ``garbage``'s to say."""

import contextlib
import os
import shutil
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Final

from filesync.digest import Digest
from filesync.errors import LocalError, NodeMissing
from worker.garbage.choice import Item, Key, Plan, choose, reasons
from worker.snapshots import SnapshotInUse
from worker.store import Store
from worker.store.refs import SKELETON, HeldRef
from worker.wire.disk import (
    MAX_SHOWN,
    REMOVABLE,
    Holdings,
    Holds,
    KeptRow,
    Kind,
    PrunePolicy,
    Usage,
    UsageItem,
    UsageRow,
)

BY_BUILD: Final = "a build holds it"
BEING_READ: Final = "it is being read"
ON_ITS_WAY: Final = "it is being moved"
LAST_COPY: Final = "the last copy, and its result is on another worker"
IN_USE: Final = "a step uses it"
USED_NOW: Final = "it has come into use"


class Collector:
    """Counts and removes what is in ``store``. Blocks; from one thread at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._measured: dict[str, tuple[float, int]] = {}

    def usage(self, holds: Holds, caches: Collection[str], *, verbose: bool) -> Usage:
        """Return what takes how much disk; ``caches`` are those that steps use."""
        items = self.items(holds, caches)
        why = reasons(items)
        rows = tuple(
            UsageRow(
                kind,
                len(own := [item for item in items if item.key.kind is kind]),
                sum(item.size for item in own),
                sum(item.size for item in own if not why[item.key]),
                max((item.used_s for item in own), default=0.0),
            )
            for kind in REMOVABLE
        )
        manifests = UsageRow(Kind.MANIFEST, *self._store.nodes.usage())
        return Usage((*rows, manifests), (), _shown(items, why) if verbose else ())

    def plan(
        self, policies: Iterable[PrunePolicy], holds: Holds, caches: Collection[str]
    ) -> Plan:
        """Return what the policies, one after the other, would remove."""
        items = self.items(holds, caches)
        remove: list[Item] = []
        kept: dict[Key, tuple[Item, str]] = {}
        free_bytes = shutil.disk_usage(self._store.work).free
        for policy in policies:
            plan = choose(items, policy, now_s=time.time(), free_bytes=free_bytes)
            remove.extend(plan.remove)
            gone = {item.key for item in plan.remove}
            items = [item for item in items if item.key not in gone]
            free_bytes += sum(item.size for item in plan.remove)
            kept.update({item.key: (item, why) for item, why in plan.kept})
        for item in remove:
            kept.pop(item.key, None)
        return Plan(tuple(remove), tuple(kept.values()))

    def holdings(self) -> Holdings:
        """Return which blobs are here, and of what."""
        store = self._store
        layers = [
            (info.ref, info.layer.digest)
            for info in store.refs.infos()
            if info.layer is not None
        ]
        blobs = tuple(blob.digest for blob in store.blobs.list())
        published = [
            (layer, other) for layer, form, other in store.refs.variants() if form != SKELETON
        ]
        return Holdings(blobs, tuple(layers), tuple(published))

    # --- counting -----------------------------------------------------------------------------

    def items(self, holds: Holds, caches: Collection[str]) -> list[Item]:
        """Return all that takes disk."""
        return [
            *self._results(holds),
            *self._blobs(holds),
            *self._partials(),
            *self._sources(),
            *self._caches(caches),
        ]

    def _results(self, holds: Holds) -> list[Item]:
        store = self._store
        snapshots = {snapshot.id: snapshot for snapshot in store.snapshots.list()}
        refs = store.refs.by_snapshot()
        in_use = store.snapshots.in_use()
        leased, copied = set(holds.refs), set(holds.copied)
        variants: dict[str, list[str]] = {}
        for layer, form, other in store.refs.variants():
            # What a layer was published as may be had from where it is; a skeleton is how it moves.
            if form == SKELETON or other not in copied:
                variants.setdefault(layer, []).append(other)
        found: list[Item] = []
        for info in store.refs.infos():
            held = store.refs.find(info.ref)
            if held is None:
                continue
            snapshot = snapshots.get(held.snapshot)
            # A copy may be made on an earlier one, and not on its parent.
            made_on = None if snapshot is None else refs.get(snapshot.parent or "")
            below = {ref for ref in (info.parent, made_on) if ref is not None}
            needs = [Key(Kind.RESULT, ref.hex()) for ref in sorted(below)]
            if info.layer is not None:
                own = (info.layer.digest, *variants.get(info.layer.digest, ()))
                needs.extend(Key(Kind.BLOB, digest) for digest in own)
            why = BY_BUILD if info.ref in leased else ""
            why = why or (BEING_READ if held.snapshot in in_use else "")
            size, used_s = snapshot.bytes if snapshot else 0, store.refs.used_s(info)
            key = Key(Kind.RESULT, info.ref.hex())
            found.append(Item(key, size, used_s, tuple(needs), why))
        return found

    def _blobs(self, holds: Holds) -> list[Item]:
        blobs, last = self._store.blobs, set(holds.last_copies)

        def why(digest: str) -> str:
            if blobs.is_held(digest):
                return ON_ITS_WAY
            return LAST_COPY if digest in last else ""

        return [
            Item(
                Key(Kind.BLOB, blob.digest),
                blob.size,
                blobs.used_s(blob.digest),
                held=why(blob.digest),
            )
            for blob in blobs.list()
        ]

    def _partials(self) -> list[Item]:
        blobs = self._store.blobs
        found = [
            Item(
                Key(Kind.PARTIAL, one.digest),
                one.size,
                one.grown_s,
                held=ON_ITS_WAY if blobs.is_held(one.digest) else "",
            )
            for one in blobs.partials()
        ]
        for path in self._store.left_arriving():
            with contextlib.suppress(FileNotFoundError):
                grown_s = path.stat().st_mtime
                found.append(Item(Key(Kind.PARTIAL, path.name), tree_bytes(path), grown_s))
        return found

    def _sources(self) -> list[Item]:
        found: list[Item] = []
        for one in self._store.sources.idle():
            with contextlib.suppress(NodeMissing):  # it is on its way out
                size = self._store.nodes.summary(one.tree).size
                found.append(Item(Key(Kind.SOURCE, one.id), size, one.used_s))
        return found

    def _caches(self, in_use: Collection[str]) -> list[Item]:
        found: list[Item] = []
        for path in self._store.caches.iterdir() if self._store.caches.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):
                used_s = path.stat().st_mtime
                known = self._measured.get(path.name)
                if known is None or known[0] != used_s:
                    known = self._measured[path.name] = (used_s, tree_bytes(path))
                held = IN_USE if path.name in in_use else ""
                found.append(Item(Key(Kind.CACHE, path.name), known[1], used_s, held=held))
        return found

    # --- removing -----------------------------------------------------------------------------

    def remove(self, plan: Plan, detached: Collection[str], *, verbose: bool) -> Usage:
        """Remove what ``plan`` says, in its order; return what went and what did not.

        ``detached`` are the caches whose directories are out of the way, to be removed by the
        caller. Whatever has come into use since the plan was made stays, with what it needs, though
        it is not in use any more: a result may have gone to a worker that has no more of it than its
        tree, or have been made of a blob that nothing needed.
        """
        kept = list(plan.kept)
        gone: list[Item] = []
        needed: set[Key] = set()
        # Blobs last: of which something is needed then is found once.
        for item in sorted(plan.remove, key=lambda item: item.key.kind is Kind.BLOB):
            why = USED_NOW if item.key in needed else self._removed(item, detached)
            if why:
                kept.append((item, why))
                needed.update(item.needs)
            else:
                gone.append(item)
        self._store.refs.forget_variants(self._store.blobs.__contains__)
        rows = tuple(
            UsageRow(kind, len(own), sum(item.size for item in own))
            for kind in Kind
            if (own := [item for item in gone if item.key.kind is kind])
        )
        refs = tuple(
            Digest(bytes.fromhex(item.key.id)) for item in gone if item.key.kind is Kind.RESULT
        )
        shown = [*gone, *(item for item, _ in kept)] if verbose else []
        whys = {item.key: why for item, why in kept}
        return Usage(rows, _kept_rows(kept), _shown(shown, whys), refs)

    def _removed(self, item: Item, detached: Collection[str]) -> str:
        """Remove one thing; return why that could not be."""
        store, (kind, id) = self._store, item.key
        match kind:
            case Kind.RESULT:
                held = store.refs.find(Digest(bytes.fromhex(id)))
                if held is None:
                    return ""
                if store.refs.used_s(held.info) != item.used_s:
                    return USED_NOW
                return "" if self._is_result_removed(held) else BEING_READ
            case Kind.BLOB:
                if store.blobs.remove(id, is_needed=self._is_needed):
                    return ""
                return ON_ITS_WAY if store.blobs.is_held(id) else USED_NOW
            case Kind.PARTIAL:
                return "" if self._is_partial_removed(id) else ON_ITS_WAY
            case Kind.SOURCE:
                return "" if store.sources.remove(id) else IN_USE
            case Kind.CACHE:
                return "" if id in detached else IN_USE
            case Kind.MANIFEST:
                raise LocalError("manifests are swept, not removed one by one")

    def _is_partial_removed(self, id: str) -> bool:
        """Remove the beginning of a blob, or what has arrived of a ref's layer."""
        if id.startswith("sha256:"):
            return self._store.blobs.drop_partial(id)
        for path in self._store.left_arriving():
            if path.name == id:
                self._store.drop_arriving(path)
                return True
        return False

    def _is_needed(self, blob: str) -> bool:
        return blob in self._store.refs.layer_blobs()

    def _is_result_removed(self, held: HeldRef) -> bool:
        store = self._store
        # The ref goes first: a kill in between leaves a snapshot that start-up removes.
        store.refs.remove(held.info.ref)
        try:
            store.snapshots.remove(held.snapshot)
        except SnapshotInUse:
            store.refs.add(held.info, held.snapshot)
            return False
        return True

    def sweep_nodes(self) -> UsageRow:
        """Remove the manifests that nothing here needs; return what went.

        Not while an op runs, whose inputs' manifests may have come before their trees.
        """
        store = self._store
        trees = [info.tree for info in store.refs.infos()]
        _, before = store.nodes.usage()
        count = store.nodes.sweep([*trees, *store.sources.trees()])
        _, after = store.nodes.usage()
        return UsageRow(Kind.MANIFEST, count, max(0, before - after))


def tree_bytes(path: Path) -> int:
    """Return the bytes that the files below ``path`` take on disk."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
    return total


def _shown(items: Sequence[Item], why: dict[Key, str]) -> tuple[UsageItem, ...]:
    """Return the items for people, the largest where there are too many."""
    largest = sorted(items, key=lambda item: (-item.size, item.key))[:MAX_SHOWN]
    return tuple(
        UsageItem(item.key.kind, item.key.id, item.size, item.used_s, why.get(item.key, ""))
        for item in largest
    )


def _kept_rows(kept: Iterable[tuple[Item, str]]) -> tuple[KeptRow, ...]:
    sums: dict[tuple[Kind, str], tuple[int, int]] = {}
    for item, why in kept:
        count, size = sums.get((item.key.kind, why), (0, 0))
        sums[item.key.kind, why] = (count + 1, size + item.size)
    return tuple(
        KeptRow(kind, count, size, why) for (kind, why), (count, size) in sorted(sums.items())
    )
