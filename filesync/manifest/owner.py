"""Trees that belong to one user, or group, throughout."""

from filesync.digest import Digest
from filesync.manifest.growth import Expansion, grow
from filesync.manifest.node import Directory, Entry, File, Special, Subdirectory, Symlink
from filesync.manifest.tree import Manifest, Nodes


def owned_by(manifest: Manifest, nodes: Nodes, uid: int | None, gid: int | None) -> Manifest:
    """Return ``manifest`` with this user and group throughout; its nodes go to ``nodes``.

    None leaves each with its own.
    """

    def expand(tree: Digest) -> Expansion[Digest]:
        directory = manifest.directory(tree)
        children = [(e.name, e.tree) for e in directory.entries if isinstance(e, Subdirectory)]
        entries = [
            _owned(e, uid, gid) for e in directory.entries if not isinstance(e, Subdirectory)
        ]
        header = Directory(
            directory.mode,
            directory.uid if uid is None else uid,
            directory.gid if gid is None else gid,
            directory.mtime_ns,
            directory.xattrs,
            (),
        )
        return Expansion(header, entries, children)

    return Manifest(grow(nodes, manifest.tree, expand), nodes)


def _owned(entry: File | Symlink | Special, uid: int | None, gid: int | None) -> Entry:
    uid = entry.uid if uid is None else uid
    gid = entry.gid if gid is None else gid
    match entry:
        case File(name, mode, _, _, mtime_ns, size, digest, link, xattrs):
            return File(name, mode, uid, gid, mtime_ns, size, digest, link, xattrs)
        case Symlink(name, _, _, mtime_ns, target, xattrs):
            return Symlink(name, uid, gid, mtime_ns, target, xattrs)
        case Special(name, mode, _, _, mtime_ns, major, minor, xattrs):
            return Special(name, mode, uid, gid, mtime_ns, major, minor, xattrs)
