"""Applying a layer that somebody else made to a tree of ours.

The tree is changed as one reads it: merged, writable, and at rest otherwise. So a whiteout
removes. Nothing in the layer is believed: names lead nowhere but below the root, links on the
way are resolved inside it, and what is over a limit ends the work.
"""

import errno
import hashlib
import os
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from blake3 import blake3

from filesync.digest import Digest
from filesync.disk.content import write_all, write_sparse
from filesync.disk.handles import shown
from filesync.errors import FilesyncError, StoreError
from filesync.manifest import MAX_DEPTH
from worker.layers.ahead import ReadAhead
from worker.layers.errors import BadLayer
from worker.layers.hardlinks import NO_GROUPS, Groups
from worker.layers.member import (
    DIRECTORY,
    FILE,
    LINK,
    OPAQUE,
    SYMLINK,
    WHITEOUT,
    Member,
)
from worker.layers.rooted import Rooted
from worker.layers.skeleton import Proved, SkeletonWriter
from worker.layers.source import Source, Stream, decompressed, hashed
from worker.layers.sparse import content_of, cut_short
from worker.layers.tarread import read_members

_AUFS: Final = b".wh..wh."
"""Names that one file system of long ago kept to itself."""
_PIECE_BYTES: Final = 1 << 20
_LAYERS_FAULT: Final = (
    errno.ENAMETOOLONG,
    errno.EINVAL,
    errno.ELOOP,
    errno.ENOTDIR,
    errno.EISDIR,
)


class Limits(NamedTuple):
    """What a layer may be at most; over it, it is refused.

    Attributes:
        bytes: of the uncompressed tar.
        entries: members.
    """

    bytes: int = 64 << 30
    entries: int = 2_000_000


@dataclass(frozen=True, slots=True)
class Applied:
    """What applying a layer did.

    Attributes:
        diff_id: ``sha256:…`` of the uncompressed tar. Whether it is the right one is for the
            caller to say, before the tree is committed.
        size: bytes of that tar.
        hints: by path, size and content digest of the files that were written.
        not_kept: how many files lack their owner, mode, mtime or xattrs because this user or
            this file system cannot set them, by kind.
    """

    diff_id: str
    size: int
    hints: dict[bytes, tuple[int, Digest]] = field(repr=False)
    not_kept: dict[str, int] = field(default_factory=dict)


_DEFAULT: Final = Limits()
EXPANSION: Final = 1000
"""How many times its size a stranger's layer may expand; gzip cannot do more for a file of zeros."""
FREE_BYTES: Final = 4 << 30
"""What any layer may expand to."""


def limits_of(blob_bytes: int) -> Limits:
    """Return the limits of a stranger's layer whose blob has so many bytes."""
    return Limits(min(_DEFAULT.bytes, max(FREE_BYTES, EXPANSION * blob_bytes)))


def apply_layer(
    stream: Stream,
    root: Path,
    *,
    limits: Limits = _DEFAULT,
    skeleton: SkeletonWriter | None = None,
    without: Container[bytes] = (),
    groups: Groups = NO_GROUPS,
) -> Applied:
    """Make the tree at ``root`` what the layer says. Blocks.

    ``stream`` gives a tar, plain or compressed by gzip or zstd, as its first bytes tell. The
    same layer on the same tree gives the same tree on every worker, times included: a directory
    that no member speaks of keeps its time, and a parent that is missing is made 0755, root's,
    of 1970. ``skeleton`` is told the tar as it goes by; the caller finishes it. Members called as
    ``without`` says are passed over: they are the format's own. ``groups`` are the hard links
    that the tree has: an overlay tears apart those that are linked to, and they are joined again.

    Raises:
        BadLayer: it is no layer, or asks for what cannot be; throw the tree away.
        StoreError: this disk; throw the tree away.
    """
    return apply_tar(
        decompressed(stream),
        root,
        limits=limits,
        skeleton=skeleton,
        without=without,
        groups=groups,
    )


def apply_tar(
    pieces: Iterable[bytes],
    root: Path,
    *,
    limits: Limits = _DEFAULT,
    skeleton: SkeletonWriter | None = None,
    without: Container[bytes] = (),
    groups: Groups = NO_GROUPS,
    proved: Proved | None = None,
) -> Applied:
    """Do the same with a tar that is plain; a thread makes ``pieces`` and hashes them.

    What is in a piece may be noted in ``proved`` before it is made; that is not hashed again.
    """
    diff_id = hashlib.sha256()
    hints: dict[bytes, tuple[int, Digest]] = {}
    with ReadAhead(hashed(pieces, diff_id)) as coming, Rooted(root, groups) as tree:
        source = Source(coming, max_bytes=limits.bytes, skeleton=skeleton, proved=proved)
        for count, member in enumerate(read_members(source), start=1):
            if count > limits.entries:
                raise BadLayer(f"a layer has more than {limits.entries} members")
            if member.path in without:
                continue
            try:
                _apply(tree, source, member, hints)
            except OSError as exc:
                raise _fault(member, exc) from exc
        tree.finish()
        not_kept = tree.metadata.not_kept
        source.finish()
    return Applied(f"sha256:{diff_id.hexdigest()}", source.position, hints, not_kept)


def _apply(
    tree: Rooted, source: Source, member: Member, hints: dict[bytes, tuple[int, Digest]]
) -> None:
    parts = path_parts(member.path)
    if not parts:
        tree.set_root(member)
    elif is_aufs(parts):
        pass
    elif parts[-1].startswith(WHITEOUT):
        _remove(tree, parts)
    else:
        _make(tree, source, member, parts, hints)


def _make(
    tree: Rooted,
    source: Source,
    member: Member,
    parts: list[bytes],
    hints: dict[bytes, tuple[int, Digest]],
) -> None:
    directory, name = tree.enter(parts[:-1]), parts[-1]
    path = directory + b"/" + name if directory else name
    known = None
    if member.kind == LINK:
        target = _link_target(tree, member, path)
        tree.make_link(directory, name, target)
        known = hints.get(target)
    elif member.kind == FILE:
        known = member.size, _write_file(tree, source, member, directory, name)
    elif member.kind == DIRECTORY:
        tree.make_directory(directory, name, member)
    elif member.kind == SYMLINK:
        tree.make_symlink(directory, name, member)
    else:
        tree.make_special(directory, name, member)
    if known is not None:
        hints[path] = known
    else:
        hints.pop(path, None)


def _remove(tree: Rooted, parts: list[bytes]) -> None:
    """Do what a whiteout says. It speaks of what was there before this layer."""
    name = parts[-1]
    directory = tree.find_directory(parts[:-1])
    if directory is None:
        return
    if name == OPAQUE:
        tree.clear_old(directory)
    else:
        gone = name.removeprefix(WHITEOUT)
        if gone in (b"", b".", b".."):
            raise BadLayer(f"{shown(b'/'.join(parts))} would remove no name")
        tree.remove_old(directory, gone)


def _link_target(tree: Rooted, member: Member, path: bytes) -> bytes:
    parts = path_parts(member.link)
    directory = tree.find_directory(parts[:-1]) if parts else None
    if directory is None:
        raise BadLayer(f"{shown(path)} links to {shown(member.link)}, which is not there")
    target = directory + b"/" + parts[-1] if directory else parts[-1]
    if target == path:
        raise BadLayer(f"{shown(path)} links to itself")
    return target


def _write_file(
    tree: Rooted, source: Source, member: Member, directory: bytes, name: bytes
) -> Digest:
    if member.size > source.left_bytes:
        raise BadLayer(f"{shown(member.path)} is over the limit of a layer's bytes")
    with tree.new_file(directory, name, member) as fd:
        if member.size <= _PIECE_BYTES and member.pieces is None:
            data = source.read_content(member.size)
            if len(data) != member.size:
                raise cut_short(member)
            write_all(fd, data, 0)
            digest = source.digest_of_last(data)
        else:
            digest = _write_large(fd, source, member)
    if member.pieces is None:
        source.end_content(digest, member.size)
    return digest


def _write_large(fd: int, source: Source, member: Member) -> Digest:
    os.ftruncate(fd, member.size)
    hasher = blake3()
    at = 0
    for piece in content_of(source, member):
        hasher.update(piece)
        write_sparse(fd, memoryview(piece), at)
        at += len(piece)
    return Digest(hasher.digest())


def is_aufs(parts: Sequence[bytes]) -> bool:
    """Whether a member is one that a file system of long ago kept to itself, and nobody reads."""
    return any(part.startswith(_AUFS) for part in parts) and parts[-1] != OPAQUE


def path_parts(path: bytes) -> list[bytes]:
    """Return the names in a path. A leading '/' changes nothing; '..' has no business here.

    Raises:
        BadLayer: it has '..', or is deeper than a tree can be.
    """
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise BadLayer(f"{shown(path)} leads out of where it is")
    if len(parts) > MAX_DEPTH:
        raise BadLayer(f"more than {MAX_DEPTH} directories inside each other")
    return parts


def _fault(member: Member, exc: OSError) -> FilesyncError:
    text = f"{shown(member.path)}: {exc.strerror}"
    return BadLayer(text) if exc.errno in _LAYERS_FAULT else StoreError(text)
