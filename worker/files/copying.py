"""Which of an input's paths a Copy names, and where each goes. The rules are BuildKit's.

* A directory gives its contents. The destination directory itself, like all parents that are
  missing, is made 0755, or with an octal ``mode`` as that says, and belongs to ``owner`` or root;
  the source directory's own attributes do not reach it, one that is there is left as it is. Only
  its time is the source directory's, until more comes into it. Without ``parents``, that is.
* A file goes *into* the destination if that ends in '/' or is a directory; else it becomes the
  destination. Several matches are copied one after another, each as if it were alone.
* What is unpacked has the archive's modes, whatever ``mode`` says.
* Links in the source path are followed inside the input, links below a copied directory are
  copied. Links in the destination path are followed inside the tree; below it none is: a link
  in the way of a file is replaced, in the way of a directory an error, as in BuildKit.
* With ``parents`` the directories of the source path, from the pivot '/./' on, are made below
  the destination with their own attributes, and what the path ends in is not followed.
"""

import os

import msgspec

from filesync.disk.handles import READ_FLAGS, DirectoryHandles
from filesync.errors import PathMissing
from filesync.manifest import (
    Entry,
    File,
    Manifest,
    Subdirectory,
)
from filesync.trees.glob import is_pattern, unescape
from filesync.trees.select import Match, Pick, clean, matched, resolve
from worker.files.copier import Copier
from worker.files.mode import made_mode, parse_mode
from worker.files.named import directory_at, has_own_time, reduced
from worker.files.tree import Owner, Place, Tree, join, split, text_of
from worker.files.unpack import unpack
from worker.wire.ops import Copy


class _Copying(msgspec.Struct, frozen=True):
    """One Copy under way."""

    op: Copy
    tree: Tree
    manifest: Manifest
    source: DirectoryHandles
    copier: Copier
    owner: Owner | None
    made_mode: int


def copy(tree: Tree, op: Copy, manifest: Manifest, source: DirectoryHandles) -> None:
    """Run one Copy from the input that ``manifest`` and ``source`` are.

    Raises:
        PathMissing: a literal source is not there.
        UsageError: see ``worker.files.errors``; a bad pattern; an unknown owner.
        StoreError: this disk.
    """
    pick = Pick(op.source, exclude=op.exclude, wildcard=op.wildcard, parents=op.parents)
    found = matched(manifest, pick)
    if not found:
        return
    # Once, before the copy itself can change the account files.
    owner, change_mode = tree.owner_of(op.owner), parse_mode(op.mode)
    copier = Copier(tree, source, owner=owner, change_mode=change_mode)
    copying = _Copying(op, tree, manifest, source, copier, owner, made_mode(op.mode))
    dest = os.fsencode(op.dest)
    is_into = dest.rpartition(b"/")[2] in (b"", b".")
    for match in found:
        copier.begin()
        if op.parents:
            _copy_with_parents(copying, match, dest)
        elif (directory := directory_at(manifest, match.real)) is not None:
            target = _into(copying, dest)
            left, directory = reduced(copying.op, manifest, match.real, directory)
            copier.copy_contents(left, match.real, directory, target)
            if has_own_time(match.real, directory):
                tree.set_time(target, directory.mtime_ns)
        else:
            _copy_file(copying, match, dest, is_into=is_into)


def _copy_file(copying: _Copying, match: Match, dest: bytes, *, is_into: bool) -> None:
    tree = copying.tree
    entry = _entry(copying.manifest, match.real)
    if copying.op.unpack and isinstance(entry, File) and _unpacked(copying, match.real, dest):
        return
    place = tree.find(dest)
    if is_into or (place.is_directory and not place.missing):
        target = join(_into(copying, dest), split(match.path)[1])
    elif place.missing:
        above = Place(place.found, place.missing[:-1], is_directory=True)
        target = join(_make(copying, above), place.missing[-1])
    else:
        target = place.found
    copying.copier.copy_entry(match.real, entry, target)


def _unpacked(copying: _Copying, source: bytes, dest: bytes) -> bool:
    above, name = split(source)
    with open(os.open(name, READ_FLAGS, dir_fd=copying.source.open(above)), "rb") as file:
        return unpack(
            file,
            copying.tree,
            lambda: copying.tree.make_directories(copying.tree.find(dest), owner=copying.owner),
            owner=copying.owner,
        )


def _copy_with_parents(copying: _Copying, match: Match, dest: bytes) -> None:
    manifest, copier = copying.manifest, copying.copier
    names, pivot = _written(manifest, copying.op, match)
    target = _into(copying, dest)
    for end in range(pivot + 1, len(names)):
        real = resolve(manifest, b"/".join(names[:end]))
        header = directory_at(manifest, real)
        if header is None:
            raise PathMissing(text_of(real))
        target = join(target, names[end - 1])
        copier.copy_header(header, target)
    if not match.path:
        directory = manifest.root
    else:
        entry = _entry(manifest, match.path)
        target = join(target, names[-1]) if len(names) > pivot else target
        if not isinstance(entry, Subdirectory):
            copier.copy_entry(match.path, entry, target)
            return
        directory = manifest.directory(entry.tree)
    pivoted = b"/".join((b"", *names[:pivot], b".", *names[pivot:]))
    written = pivoted if len(names) > pivot else b""
    left, directory = reduced(copying.op, manifest, match.path, directory, written=written)
    if len(names) > pivot:
        copier.copy_directory(left, match.path, directory, target)
    else:
        copier.copy_contents(left, match.path, directory, target)


def _written(manifest: Manifest, op: Copy, match: Match) -> tuple[list[bytes], int]:
    """Return the names of the source path as they were asked for, and how many the pivot drops.

    Names of a pattern are those that it matched.
    """
    head, pivot, _ = op.source.partition("/./")
    names = clean(os.fsencode(op.source))
    if op.wildcard:
        first = next((i for i, n in enumerate(names) if is_pattern(os.fsdecode(n))), len(names))
        names = [os.fsencode(unescape(os.fsdecode(name))) for name in names[:first]]
        above = clean(resolve(manifest, b"/".join(names)))
        names += match.path.split(b"/")[len(above) :]
    return names, min(len(clean(os.fsencode(head))), len(names)) if pivot else 0


def _into(copying: _Copying, dest: bytes) -> bytes:
    """Return the destination directory, made if it was not there."""
    return _make(copying, copying.tree.find(dest))


def _make(copying: _Copying, place: Place) -> bytes:
    mode = copying.made_mode
    return copying.tree.make_directories(place, owner=copying.owner, mode=mode)


def _entry(manifest: Manifest, path: bytes) -> Entry:
    entry = manifest.find(path)
    if entry is None:
        raise PathMissing(text_of(path))
    return entry
