"""Earlier results on which a copy can be made, instead of on what it is a change of."""

import os
from typing import Final

import msgspec

from filesync.digest import Digest
from filesync.errors import NodeMissing
from filesync.manifest import Manifest, empty_manifest
from worker.exec.user import resolve_owner
from worker.files import Again, Basis, Tree, given_to, plan_again
from worker.snapshots import SnapshotMissing
from worker.store import Store
from worker.store.refs import HeldRef, RefMissing
from worker.wire.ops import Copy

LOOKED_AT: Final = 4
"""Results on the same base that are compared, the last first."""
ENOUGH_TIMES: Final = 20
"""If so many names are kept for each that is not, no others are compared."""
MAX_STACKED: Final = 8
"""Copies that are made one on the other: each looks through all below, and keeps what is in them."""
MAX_DEPTH: Final = 200
"""No copy is made on a snapshot with so many below it: an overlay ends at 500, by mount(2) at fewer."""


class Earlier(msgspec.Struct, frozen=True):
    """A result, and what is left to do in its tree to have another."""

    held: HeldRef
    plan: Again


def find_earlier(store: Store, base: Digest | None, op: Copy, tree: Manifest) -> Earlier | None:
    """Return a result that is almost what ``op`` makes of ``base`` and the input ``tree``.

    None: it had better be made of the base itself. So it is where each snapshot is a whole copy:
    nothing would be spared, and the earlier one could not go as long as the new one is there. Blocks.

    Raises:
        FilesyncError: the op cannot be done.
    """
    if store.snapshots.kind == "copy" or (given := given_to(op, tree)) is None:
        return None
    if not (candidates := store.refs.on(base)[:LOOKED_AT]):
        return None
    under = None if base is None else store.refs.get(base)
    depth = 0 if under is None else store.snapshots.depth(under.snapshot)
    owner = _owner(store, under, op)
    before = empty_manifest(store.nodes) if under is None else _tree(store, under)
    found: list[Earlier] = []
    for one in candidates:
        try:
            stacked = store.snapshots.depth(one.snapshot)
            if stacked - depth > MAX_STACKED or stacked >= MAX_DEPTH:
                continue
            basis = Basis(before, _tree(store, one), owner, (os.geteuid(), os.getegid()))
            if (plan := plan_again(op, given, basis)) is not None:
                found.append(Earlier(one, plan))
                if plan.changed * ENOUGH_TIMES <= plan.kept:
                    break
        except (NodeMissing, RefMissing, SnapshotMissing):
            continue  # it is being removed
    return min(found, key=lambda one: one.plan.changed, default=None)


def _tree(store: Store, held: HeldRef) -> Manifest:
    return Manifest(held.info.tree, store.nodes)


def _owner(store: Store, under: HeldRef | None, op: Copy) -> tuple[int, int] | None:
    """Return whom the op's ``owner`` names in the base, where a copy looks it up."""
    if not op.owner:
        return None
    if under is None:
        return resolve_owner(op.owner, b"", b"")
    with store.view_of(under) as view, Tree(view.path) as tree:
        return tree.owner_of(op.owner)
