"""Directories at a sync's destination that cannot be written, and what can be done around them."""

import errno
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import msgspec

from filesync.disk.handles import DirectoryHandles, why_no_root, why_unwritable
from filesync.disk.updating.visits import Visit, below, depth_of
from filesync.errors import StoreError
from filesync.manifest import Directory, Entry, File, Manifest, Nodes
from filesync.manifest.patch import Change, patch
from filesync.sync.plan import Plan

Look = Callable[[bytes], int]
"""Returns why a directory at the destination cannot be written (errno); 0 if it can be."""


class Unwritable:
    """Says of the directories at a place why they cannot be written (errno); 0 of those that can.

    Args:
        root: the place; a descriptor stays the caller's.
    """

    def __init__(self, root: Path | int) -> None:
        self._handles = DirectoryHandles(root)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._handles.close()

    def why(self, path: bytes) -> int:
        """Look at the directory ``path``.

        Raises:
            StoreError: it cannot be opened.
        """
        if not path:
            return why_no_root(self._handles.open(path))
        try:
            fd = self._handles.open(path)
        except StoreError as exc:
            if isinstance(exc.__cause__, FileNotFoundError | NotADirectoryError):
                return 0  # a dry run has only planned it; a run finds out
            raise
        why = why_unwritable(fd)
        # An immutable one is tried: what is below it, and what files in it are like, may change.
        return 0 if why == errno.EPERM else why


def around_unwritable(root: Path, plan: Plan, nodes: Nodes) -> tuple[Plan, Mapping[bytes, int]]:
    """Return what of ``plan`` can be done at the place ``root``; see ``around``. Blocks."""
    if plan.is_done:
        return plan, {}
    with Unwritable(root) as unwritable:
        return around(plan, nodes, unwritable.why)


def around(plan: Plan, nodes: Nodes, look: Look) -> tuple[Plan, Mapping[bytes, int]]:
    """Return what of ``plan`` can be done, and the directories that it would have had to write.

    What would change in one of those is in neither of the plan's trees any more, as if nobody had
    seen it. Where the root itself cannot be written nothing is done: what arrives has no place to
    wait. What is in a directory that would go shows when it is removed.

    Args:
        plan: for a place.
        nodes: the plan's, and gets what is new.
        look: asked about directories there.

    Raises:
        StoreError: what ``look`` raises.
    """
    found = _Around(look)
    for visit in plan.visits.common():
        found.note(visit)
        if b"" in found.why:  # it comes first
            return msgspec.structs.replace(plan, target=plan.basis), found.why
    if not found.why:
        return plan, {}
    seen, given = found.change(keep_headers=False), found.change(keep_headers=True)
    basis = Manifest(patch(nodes, plan.basis.tree, seen), nodes)
    target = Manifest(patch(nodes, plan.target.tree, given), nodes)
    return msgspec.structs.replace(plan, basis=basis, target=target), found.why


class _Around:
    """What has to be left as it is.

    Attributes:
        why: the directories, and why they cannot be written (errno).
    """

    def __init__(self, look: Look) -> None:
        self.why: dict[bytes, int] = {}
        self._look = look
        self._headers: dict[bytes, Directory] = {}
        self._names: dict[bytes, frozenset[bytes]] = {}
        self._leading: dict[bytes, set[bytes]] = {}

    def note(self, visit: Visit) -> None:
        """Look at a directory that both trees have."""
        if visit.old is None or (visit.path and not _changes(visit)):
            return
        why = self._look(visit.path)
        is_written = not visit.path or _has_to_be_written(visit)  # what comes waits in the root
        if why == errno.EROFS or (why and is_written):
            self.why[visit.path] = why
            self._headers[visit.path] = visit.old
            names = {new.name for _, new in visit.changes}
            self._leave(visit, names | {entry.name for entry in visit.removed})

    def change(self, *, keep_headers: bool) -> Change:
        """Return the change that takes out of one of the trees what is left as it is."""
        made: dict[bytes, Change] = {}
        # Those in a directory before it: they may be thousands deep.
        for path in sorted({*self._names, *self._leading}, key=depth_of, reverse=True):
            inside = self._leading.get(path, ())
            made[path] = Change(
                self._headers.get(path) if keep_headers else None,
                removed=self._names.get(path, frozenset()),
                children={name: made[below(path, name)] for name in inside},
            )
        return made[b""]

    def _leave(self, visit: Visit, names: set[bytes]) -> None:
        self._names[visit.path] = frozenset(names)
        path = visit.path
        while path:
            parent, _, name = path.rpartition(b"/")
            self._leading.setdefault(parent, set()).add(name)
            path = parent


def _changes(visit: Visit) -> bool:
    """Say whether anything of a directory itself changes, and not only what is further down."""
    return bool(visit.removed or visit.changes) or visit.old != visit.new


def _has_to_be_written(visit: Visit) -> bool:
    """Say whether more than the metadata of what is there changes."""
    return bool(visit.removed) or any(not _is_metadata(old, new) for old, new in visit.changes)


def _is_metadata(old: Entry | None, new: Entry) -> bool:
    return isinstance(old, File) and isinstance(new, File) and old.digest == new.digest
