"""One part of a sync, from what is planned to what is done; the same on all sides."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from filesync.disk.handles import shown
from filesync.disk.updating.arriving import ArrivingUpdate
from filesync.disk.updating.update import LocalTree, TreeUpdate
from filesync.errors import Unreadable
from filesync.manifest import Manifest, Nodes, Subdirectory, empty_manifest
from filesync.manifest.owner import owned_by
from filesync.sync.filter import Filter
from filesync.sync.options import Options
from filesync.sync.part import Part, Removal
from filesync.sync.places import Target
from filesync.sync.plan import Plan, make_plan
from filesync.sync.scanning import Found, Owner, scan_place
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


def as_owned(basis: Manifest, top: Manifest, owner: Owner | None, nodes: Nodes) -> Manifest:
    """Return ``basis`` as if all of it belonged to ``owner``, if there is one, as ``top`` does.

    What stands in a setgid directory has another group, which its writer will not change.
    """
    if owner is None or basis.tree == top.tree:
        return basis
    return owned_by(basis, nodes, *owner)


def scan_target(target: Target | None, part: Part, nodes: Nodes, options: Options) -> Found:
    """Return what is where a part goes to on this machine; nothing where a dry run would make it.

    Blocks. What cannot be read there need not be: see ``check_shut``. For errors see
    ``scan_place``.
    """
    if target is None:
        return Found(empty_manifest(nodes), {}, {})
    return scan_place(
        target.place,
        nodes,
        filter=unseen_filter(part, options),
        caches=options.used_caches,
        skip_unreadable=True,
        keep_unreadable=True,
    )


def check_shut(
    shut: Mapping[bytes, int],
    dest: bytes,
    part: Part,
    given: Manifest,
    removal: Removal | None,
) -> None:
    """Check that nothing is to be done with directories that a target's scan could not read.

    Args:
        shut: their paths, and why (errno).
        dest: the target's path, for people.
        part: what goes there.
        given: its tree.
        removal: what is to be removed; of what is in those nothing can be told.

    Raises:
        Unreadable: something is.
    """
    for path, why in shut.items():
        is_left_alone = removal is None or _is_spared(path, given, removal)
        if given.find(path) is not None or not is_left_alone:
            there = dest.rstrip(b"/") + b"/" + part.prefix + path
            raise Unreadable(
                f"{shown(there)}, at the destination, cannot be read: {os.strerror(why)}; "
                "make it readable, or exclude it",
                path,
                why,
            )


def _is_spared(path: bytes, given: Manifest, removal: Removal) -> bool:
    """Say whether the directory ``path``, which is not given, is left alone."""
    names = path.split(b"/")
    above = b"/".join(names[:-1])
    if names[0] in removal.spared:
        return True
    if above and not isinstance(given.find(above), Subdirectory):
        return False  # what it is in is to go
    tops = (b"/".join(names[:count]) for count in range(1, len(names) + 1))
    return any(removal.filter.excludes(top, is_directory=True) for top in tops)


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
    basis = as_owned(basis, top, only_owner(), nodes)
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
