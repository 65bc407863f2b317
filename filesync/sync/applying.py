"""One part of a sync, from what is planned to what is done; the same on all sides."""

import os
from collections.abc import Callable
from pathlib import Path

from filesync.disk.updating.arriving import ArrivingUpdate
from filesync.disk.updating.update import LocalTree, TreeUpdate
from filesync.manifest import Manifest, Nodes, empty_manifest
from filesync.sync.filter import Filter
from filesync.sync.options import Options
from filesync.sync.part import Part, Removal
from filesync.sync.places import Target
from filesync.sync.plan import Plan, make_plan
from filesync.sync.scanning import Owner, scan_place
from filesync.sync.unseen import Unseen


def only_owner() -> Owner | None:
    """Return whom all belongs to that this process writes; None if it may give files away.

    What it is given is to be looked at as if it belonged to this one (``Found.owned``): else all
    would seem to have changed, each time.
    """
    return None if os.geteuid() == 0 else (os.geteuid(), os.getegid())


class Update(TreeUpdate):
    """An update of what others may be using, as far as this user may."""

    def __init__(
        self,
        root: Path,
        plan: Plan,
        *local: LocalTree,
        on_copied: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(
            root,
            basis=plan.basis,
            target=plan.target,
            local=local,
            on_copied=on_copied,
            # Others may be using what is there: no name ever holds half a file.
            atomic=True,
            preserve_owner=only_owner() is None,
        )


class Arrival(ArrivingUpdate):
    """The same, of an empty directory to a tree whose directories are still to come."""

    def __init__(self, root: Path, nodes: Nodes) -> None:
        super().__init__(root, nodes, atomic=True, preserve_owner=only_owner() is None)


def scan_target(target: Target | None, part: Part, nodes: Nodes, options: Options) -> Manifest:
    """Return what is where a part goes to on this machine; nothing where a dry run would make it.

    Blocks. See ``scan_place`` for errors.
    """
    if target is None:
        return empty_manifest(nodes)
    filter = unseen_filter(part, options)
    return scan_place(target.place, nodes, filter=filter, caches=options.used_caches).manifest


def unseen_filter(part: Part, options: Options) -> Filter:
    """Return what a scan of where a part goes to leaves out."""
    # What is to be left alone is not looked at, unless a directory may go in which it is.
    return Filter(() if options.delete else options.rules, root=part.prefix)


def plan_target(
    target: Target | None,
    part: Part,
    basis: Manifest,
    top: Manifest,
    nodes: Nodes,
    *,
    removal: Removal | None,
    unseen: Filter,
) -> Plan:
    """Return what brings ``top`` to ``target``, which holds ``basis``; see ``make_plan``.

    Blocks. ``unseen`` is what the scan of the basis left out.
    """
    if target is None:
        return make_plan(basis, top, nodes, names=part.names, removal=removal)
    with Unseen(target.place, unseen) as left_out:
        return make_plan(
            basis,
            top,
            nodes,
            names=target.place.names,
            rename=target.rename,
            removal=removal,
            unseen=left_out,
        )
