"""What of a layer's contents this worker has already, and where."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Final

import msgspec

from filesync.digest import Digest
from filesync.disk.updating.local import LocalTree
from filesync.manifest import Manifest
from worker.layers.skeleton import contents_of, read_skeleton, skeleton_limits_of
from worker.layers.way import Choice, choose_trees
from worker.store import Store
from worker.wire.orders import LinkParts

MAX_CANDIDATES: Final = 32
"""Trees here that are looked into for contents."""


class Nearby(msgspec.Struct, frozen=True):
    """Trees here that have some of what is wanted, and the contents that none of them has."""

    trees: Sequence[LocalTree]
    lacking: Mapping[Digest, int]


def wanted_of(store: Store, parts: LinkParts) -> dict[Digest, int]:
    """Return the sizes of the contents of which a layer is made, by its skeleton in the store. Blocks."""
    limits = skeleton_limits_of(parts.skeleton.size)
    with store.blobs.open(parts.skeleton.digest) as stream:
        return contents_of(read_skeleton(stream, limits=limits))


def find_nearby(store: Store, wanted: dict[Digest, int]) -> tuple[Nearby, ExitStack]:
    """Choose trees here to read contents from, and hold them in place. Blocks."""
    refs = store.refs.infos()[::-1][:MAX_CANDIDATES]
    idle = store.sources.idle()[:MAX_CANDIDATES]
    trees = [info.tree for info in refs] + [one.tree for one in idle]
    choice: Choice = choose_trees(wanted, (Manifest(one, store.nodes) for one in trees))
    with ExitStack() as stack:
        local: list[LocalTree] = []
        for number in choice.trees:
            tree = Manifest(trees[number], store.nodes)
            if number < len(refs):
                view = stack.enter_context(store.view(refs[number].ref))
                local.append(LocalTree(tree, view.root))
            else:
                # Who takes it meanwhile may change it: what is read is verified.
                local.append(LocalTree(tree, store.sources.path_of(idle[number - len(refs)])))
        return Nearby(local, choice.lacking), stack.pop_all()
