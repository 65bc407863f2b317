"""Runs a FileOp: its actions, in order, on one directory."""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import assert_never

import msgspec

from filesync.digest import Digest
from filesync.disk.handles import DirectoryHandles
from filesync.errors import LocalError
from filesync.manifest import Manifest
from filesync.process.wanted import check_wanted
from worker.files.again import Again
from worker.files.copier import Copier
from worker.files.copying import copy
from worker.files.making import make_directory, make_file
from worker.files.mode import parse_mode
from worker.files.tree import Tree, changing
from worker.wire.ops import Action, Copy, FileOp, MakeDirectory, MakeFile


class InputTree(msgspec.Struct, frozen=True):
    """A read-only directory that holds an input, or a subset of it, and what it holds.

    ``manifest`` lists just what ``root`` has, verified.
    """

    root: Path
    manifest: Manifest


class Performed(msgspec.Struct, frozen=True):
    """What an op did.

    Attributes:
        hints: size and digest of each regular file that was written and still stands, by
            path relative to the root; what was unpacked from an archive is not among them.
    """

    hints: Mapping[bytes, tuple[int, Digest]]


def perform(
    op: FileOp, *, root: Path, inputs: Mapping[int, InputTree], now_ns: int | None
) -> Performed:
    """Change the tree in the directory ``root`` by the op's actions. Blocks.

    ``root`` holds the tree of input 0, or nothing, and nobody else may write to it meanwhile;
    what is in it is not trusted, and nothing outside it is read or written but the inputs.
    ``inputs`` gives what the copies read, by their numbers; equal results come of a whole
    input and of the subset that the op's selector leaves.

    With ``now_ns`` new files and links that are not copies, and directories whose names
    changed, get that mtime, so that equal ops leave equal trees; a directory that is a copy, or
    into which the contents of one came last, has its source's, and the root keeps its own. Without
    it those times are the clock's.

    After any error the tree is neither the old nor the new one: throw it away.

    Raises:
        PathMissing: a path that must be there is not.
        UsageError: it cannot be done; see ``worker.files.errors``.
        StoreError: this disk, or an input that is not what its manifest says.
        LocalError: an input that the op names was not given.
    """
    with ExitStack() as stack:
        tree = stack.enter_context(Tree(root))
        sources: dict[int, DirectoryHandles] = {}
        for action in op.actions:
            if isinstance(action, Copy) and action.input not in sources:
                source = _given(inputs, action.input)
                sources[action.input] = stack.enter_context(DirectoryHandles(source.root))
            with changing(os.fsencode(_path_of(action))):
                if isinstance(action, Copy):
                    manifest = inputs[action.input].manifest
                    copy(tree, action, manifest, sources[action.input])
                else:
                    _make(tree, action, now_ns)
        with changing(b""):
            tree.settle(now_ns)
        return Performed(tree.hints)


def perform_again(
    op: Copy, plan: Again, *, root: Path, source: Path, now_ns: int | None
) -> Performed:
    """Do what ``plan`` has left of ``op`` in ``root``, which holds the earlier tree. Blocks.

    ``source`` is the input's directory. What ``perform`` says of times and trust, and of errors,
    is so here as well.

    Raises:
        StoreError: this disk, or an input that is not what its manifest says.
    """
    with ExitStack() as stack:
        tree = stack.enter_context(Tree(root))
        handles = stack.enter_context(DirectoryHandles(source))
        stack.enter_context(changing(os.fsencode(op.dest)))
        change_mode = parse_mode(op.mode)
        copier = Copier(tree, handles, owner=plan.owner, change_mode=change_mode)
        for path in plan.removed:
            check_wanted()
            with changing(path):
                tree.remove_untouched(path)
        for at, digest, target in plan.made:
            directory = plan.manifest.directory(digest)
            copier.copy_directory(plan.manifest, at, directory, target)
        for at, entry, target in plan.copied:
            check_wanted()
            copier.copy_entry(at, entry, target)
        for directory, target in plan.finished:
            check_wanted()
            copier.finish(directory, target)
        for path in plan.touched:
            tree.touch(path)
        tree.set_time(plan.dest, plan.mtime_ns)
        with changing(b""):
            tree.settle(now_ns)
        return Performed(tree.hints)


def _make(tree: Tree, action: MakeDirectory | MakeFile, now_ns: int | None) -> None:
    match action:
        case MakeDirectory():
            make_directory(tree, action)
        case MakeFile():
            make_file(tree, action, now_ns=now_ns)
        case _:
            assert_never(action)


def _given(inputs: Mapping[int, InputTree], number: int) -> InputTree:
    try:
        return inputs[number]
    except KeyError:
        raise LocalError(f"input {number} of a file op was not given") from None


def _path_of(action: Action) -> str:
    return action.dest if isinstance(action, Copy) else action.path
