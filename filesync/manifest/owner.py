"""Trees that belong to one user, or group, throughout."""

from msgspec.structs import replace

from filesync.digest import Digest
from filesync.manifest.growth import Expansion, grow
from filesync.manifest.node import Directory, Entry, File, Special, Subdirectory, Symlink
from filesync.manifest.tree import Manifest, Nodes


def owned_by(manifest: Manifest, nodes: Nodes, uid: int, gid: int) -> Manifest:
    """Return ``manifest`` with this user and group throughout; its nodes go to ``nodes``."""

    def expand(tree: Digest) -> Expansion[Digest]:
        directory = manifest.directory(tree)
        children = [(e.name, e.tree) for e in directory.entries if isinstance(e, Subdirectory)]
        entries = [
            _owned(e, uid, gid) for e in directory.entries if not isinstance(e, Subdirectory)
        ]
        header = Directory(directory.mode, uid, gid, directory.mtime_ns, directory.xattrs, ())
        return Expansion(header, entries, children)

    return Manifest(grow(nodes, manifest.tree, expand), nodes)


def _owned(entry: File | Symlink | Special, uid: int, gid: int) -> Entry:
    match entry:
        case File(name, mode, _, _, mtime_ns, size, digest, link, xattrs):
            return File(name, mode, uid, gid, mtime_ns, size, digest, link, xattrs)
        case Symlink(name, _, _, mtime_ns, target, xattrs):
            return Symlink(name, uid, gid, mtime_ns, target, xattrs)
        case Special(name, mode, _, _, mtime_ns, major, minor, xattrs):
            return Special(name, mode, uid, gid, mtime_ns, major, minor, xattrs)


def with_owner(
    manifest: Manifest, nodes: Nodes, *, uid: int | None = None, gid: int | None = None
) -> Manifest:
    """Return ``manifest`` with this user, or this group, throughout, where one is given."""
    owner = {name: one for name, one in (("uid", uid), ("gid", gid)) if one is not None}

    def expand(tree: Digest) -> Expansion[Digest]:
        directory = manifest.directory(tree)
        children = [(e.name, e.tree) for e in directory.entries if isinstance(e, Subdirectory)]
        entries: list[Entry] = [
            replace(e, **owner) for e in directory.entries if not isinstance(e, Subdirectory)
        ]
        return Expansion(replace(directory, **owner), entries, children)

    return Manifest(grow(nodes, manifest.tree, expand), nodes)
