"""How an input can reach a worker: what placement chooses from.

Pure over manifests, records and the workers' announcements. Nothing is asked of anybody.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from filesync.digest import Digest
from filesync.errors import FilesyncError
from filesync.manifest import Manifest
from filesync.trees.diff import bytes_to_fetch_at_most
from filesync.trees.select import Selector
from solver.graph import Graph
from solver.keys import subset
from solver.manager.cluster import Cluster
from solver.manager.records import Records
from solver.manager.workers import WorkerLink
from solver.place import Reach, seconds
from solver.reads import Read, together
from worker.wire.orders import Mode, RefInfo

MAX_BASES: Final = 16
"""Idle sources looked at for a worker; the newest come first in what it announces."""
SPARED_BYTES: Final = 16 << 20
SPARED_TIMES: Final = 4
"""A client's tree goes whole where that is less than this and so many times what is needed: the next
build finds it there."""
DETOUR_BYTES: Final = 1 << 20
"""What has to be spared where a client's tree goes to another worker than the step's first, and where layers
come in place of what is read."""


class Needed(msgspec.Struct, frozen=True):
    """What is still to be read of a client's tree.

    Attributes:
        tree: the subset.
        selector: leaves it of the whole tree.
        steps: who read it.
    """

    tree: Manifest
    selector: Selector
    steps: frozenset[int]


class Part(msgspec.Struct, frozen=True):
    """What one step reads of one input.

    Attributes:
        position: the step that made the input.
        ref: the input's result, None while it is a client's tree that no worker has.
        tree: the input's whole tree.
        read: the subset that is read; ``tree`` itself when all is.
        partial: a subset is enough.
        needed: of a client's tree, what is to be read by all steps whose results are not known;
            None where that is the whole tree.
    """

    position: int
    ref: Digest | None
    tree: Manifest
    read: Manifest
    partial: bool
    needed: Needed | None = None


def needed_of(graph: Graph, part: Part, some: Iterable[Read]) -> Needed | None:
    """Return what ``some`` read of a client's tree; None where that is all of it. Blocks."""
    some = tuple(some)
    selector = together(graph, some)
    if selector is None:
        return None
    try:
        tree = subset(part.tree, selector)
    except FilesyncError:
        return None  # whoever reads what is not there says so
    if tree.tree == part.tree.tree:
        return None
    return Needed(tree, selector, frozenset(read.step for read in some))


def reaches(part: Part, cluster: Cluster, records: Records) -> Mapping[str, Reach]:
    """Return the best way for ``part`` to reach each worker, by the worker's name."""
    if part.ref is None:
        homes = Homes(part, cluster)
        return {worker.name: homes.reach(worker) for worker in cluster}
    holders = {worker.name for worker in cluster.holders(part.ref)}
    found: dict[str, Reach] = {}
    for worker in cluster:
        is_held = worker.name in holders
        found[worker.name] = Reach(Mode.LOCAL) if is_held else _moved(part, worker, records)
    return found


def _moved(part: Part, worker: WorkerLink, records: Records) -> Reach:
    """Return how what a worker has reaches one that has not."""
    assert part.ref is not None
    if not part.partial:
        return _by_layers(worker, part.ref, records)
    paths = by_paths(worker, part.read)
    if records.ref(part.ref) is None:
        return paths  # it is a source, which has no layers
    layers = _by_layers(worker, part.ref, records)
    spares = paths.bytes_to_move - layers.bytes_to_move > DETOUR_BYTES
    return layers if spares and seconds(layers) < seconds(paths) else paths


def _by_layers(worker: WorkerLink, ref: Digest, records: Records) -> Reach:
    lacking = lacking_links(worker, records.chain(ref))
    return Reach(Mode.LAYERS, sum(map(layer_bytes, lacking)))


class Homes:
    """Where a client's tree goes first, when a step on a worker needs it.

    Its home gets all that is still to be read of it, so that the client sends it once; others
    then take their part from there. The step's own worker is the home, unless another lacks so
    much less of the tree that it saves bytes to go that way.
    """

    def __init__(self, part: Part, cluster: Iterable[WorkerLink]) -> None:
        self._part = part
        ways = [(worker, by_client(worker, part)[1]) for worker in cluster]
        self._straight = {worker.name: reach for worker, reach in ways}
        self._nearest = min(ways, key=lambda way: way[1].bytes_to_move, default=None)

    def home(self, worker: WorkerLink) -> WorkerLink:
        """Return where the tree goes for a step on ``worker``."""
        return self._way(worker)[0]

    def reach(self, worker: WorkerLink) -> Reach:
        """Return how it gets to ``worker``, with all that moves on the way."""
        return self._way(worker)[1]

    def _way(self, worker: WorkerLink) -> tuple[WorkerLink, Reach]:
        straight = self._straight.get(worker.name)
        if straight is None or self._nearest is None:
            return worker, by_client(worker, self._part)[1]  # it has left
        nearest, first = self._nearest
        spared = straight.bytes_to_move - first.bytes_to_move - DETOUR_BYTES
        if spared <= 0:
            return worker, straight
        on = by_paths(worker, self._part.read)
        if on.bytes_to_move >= spared:
            return worker, straight
        return nearest, Reach(Mode.PATHS, first.bytes_to_move + on.bytes_to_move, on.basis)


def by_client(worker: WorkerLink, part: Part) -> tuple[Needed | None, Reach]:
    """Return what a client sends to ``worker``, None for its whole tree, and how that gets there.

    The whole tree, which has what is needed, is what the next build starts from. But where the
    worker lacks most of it, and little is needed, it gets that, and no source is given up for it.
    """
    whole = by_paths(worker, part.tree)
    needed = part.needed
    if needed is None:
        return None, whole
    size = needed.tree.summary.size
    if whole.bytes_to_move <= max(SPARED_BYTES, SPARED_TIMES * size):
        return None, whole
    return needed, by_paths(worker, needed.tree, largest_basis=SPARED_TIMES * size)


def by_paths(
    worker: WorkerLink, target: Manifest, *, largest_basis: int | None = None
) -> Reach:
    """Return how ``target`` reaches ``worker`` by a sync, from its nearest idle source.

    That may have ``largest_basis`` bytes: it becomes the target, and what else it has is lost.
    """
    best = Reach(Mode.PATHS, target.summary.size)
    for source, tree in list(worker.sources.items())[:MAX_BASES]:
        if tree not in target.nodes:
            continue
        basis = Manifest(tree, target.nodes)
        if largest_basis is not None and basis.summary.size > largest_basis:
            continue
        moved = bytes_to_fetch_at_most(basis, target)
        if moved < best.bytes_to_move or (moved == best.bytes_to_move == 0 and not best.basis):
            best = Reach(Mode.PATHS, moved, source)
    return best


def lacking_links(worker: WorkerLink, chain: Iterable[RefInfo]) -> list[RefInfo]:
    """Return the refs of ``chain`` that ``worker`` does not hold, parents first."""
    return [info for info in chain if info.ref not in worker.refs]


def layer_bytes(info: RefInfo) -> int:
    """Return what a ref's own layer takes to move: its blob if made, else its plain tar."""
    return info.layer.size if info.layer is not None else info.tar_size
