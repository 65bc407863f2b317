"""How an input can reach a worker: what placement chooses from.

Pure over manifests, records and the workers' announcements. Nothing is asked of anybody.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from filesync.diff import bytes_to_fetch_at_most
from filesync.digest import Digest
from filesync.manifest import Manifest
from solver.manager.cluster import Cluster
from solver.manager.records import Records
from solver.manager.workers import WorkerLink
from solver.place import Reach
from worker.wire.orders import Mode, RefInfo

MAX_BASES: Final = 16
"""Idle sources looked at for a worker; the newest come first in what it announces."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one step reads of one input.

    Attributes:
        position: the step that made the input.
        ref: the input's result, None while it is a client's tree that no worker has.
        tree: the input's whole tree.
        read: the subset that is read; ``tree`` itself when all is.
        partial: a subset is enough.
    """

    position: int
    ref: Digest | None
    tree: Manifest
    read: Manifest
    partial: bool


def reaches(part: Part, cluster: Cluster, records: Records) -> Mapping[str, Reach]:
    """Return the best way for ``part`` to reach each worker, by the worker's name."""
    holders = {w.name for w in cluster.holders(part.ref)} if part.ref is not None else set()
    found: dict[str, Reach] = {}
    for worker in cluster:
        if worker.name in holders:
            found[worker.name] = Reach(Mode.LOCAL)
        elif part.ref is None:
            # The first worker that needs a client's tree gets all that the build reads of
            # it, so that the client sends it once; others then take their part from there.
            found[worker.name] = by_paths(worker, part.tree)
        elif part.partial:
            found[worker.name] = by_paths(worker, part.read)
        else:
            lacking = lacking_links(worker, records.chain(part.ref))
            found[worker.name] = Reach(Mode.LAYERS, sum(map(layer_bytes, lacking)))
    return found


def by_paths(worker: WorkerLink, target: Manifest) -> Reach:
    """Return how ``target`` reaches ``worker`` by a sync, from its nearest idle source."""
    best = Reach(Mode.PATHS, target.summary.size)
    for source, tree in list(worker.sources.items())[:MAX_BASES]:
        if tree not in target.nodes:
            continue
        moved = bytes_to_fetch_at_most(Manifest(tree, target.nodes), target)
        if moved < best.bytes_to_move or (moved == best.bytes_to_move == 0 and not best.basis):
            best = Reach(Mode.PATHS, moved, source)
    return best


def lacking_links(worker: WorkerLink, chain: Iterable[RefInfo]) -> list[RefInfo]:
    """Return the refs of ``chain`` that ``worker`` does not hold, parents first."""
    return [info for info in chain if info.ref not in worker.refs]


def layer_bytes(info: RefInfo) -> int:
    """Return what a ref's own layer takes to move: its blob if made, else its plain tar."""
    return info.layer.size if info.layer is not None else info.tar_size
