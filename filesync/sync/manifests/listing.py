"""A tree as a readable listing, and as JSON."""

import json
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from filesync.digest import name_of
from filesync.manifest import Directory, Entry, File, Manifest, Special, Subdirectory, Symlink
from filesync.sync.saying.itemize import shown_name


def lines(manifest: Manifest) -> Iterator[str]:
    """Yield a line a name, in walk order: mode, owner, size, time (UTC), digest, name.

    The root comes first, as ``./``; the digest of a directory is its tree digest.
    """
    yield _line(stat.S_IFDIR | manifest.root.mode, manifest.root, "-", manifest.tree, b"./")
    for path, entry in manifest.walk():
        match entry:
            case File(mode=mode, size=size, digest=digest):
                yield _line(stat.S_IFREG | mode, entry, f"{size}", digest, path)
            case Subdirectory(tree=tree):
                header = manifest.directory(tree)
                yield _line(stat.S_IFDIR | header.mode, header, "-", tree, path + b"/")
            case Symlink(target=target):
                line = _line(stat.S_IFLNK | 0o777, entry, "-", None, path)
                yield f"{line} -> {shown_name(target)}"
            case Special(mode=mode, major=major, minor=minor):
                device = "-" if stat.S_ISFIFO(mode) else f"{major},{minor}"
                yield _line(mode, entry, device, None, path)


def json_lines(manifest: Manifest) -> Iterator[str]:
    """Yield the pieces of one JSON document: the tree's digests and all names in walk order.

    Bytes of a name that are not UTF-8 are lone surrogates, as Python's ``os.fsdecode`` gives.
    """
    summary = manifest.summary
    head = {
        "tree": name_of(manifest.tree),
        "content": name_of(manifest.content),
        "names": summary.entries,
        "size": summary.size,
    }
    yield json.dumps(head)[:-1] + ', "entries": ['
    comma = ""
    for path, entry in manifest.walk():
        yield comma + "\n" + json.dumps(_fields(manifest, path, entry))
        comma = ","
    yield "\n]}\n"


def _line(
    mode: int,
    entry: Directory | File | Symlink | Special,
    size: str,
    digest: bytes | None,
    path: bytes,
) -> str:
    time = datetime.fromtimestamp(entry.mtime_ns // 1_000_000_000, UTC)
    short = digest.hex()[:12] if digest is not None else "-"
    owner = f"{entry.uid}:{entry.gid}"
    return (
        f"{stat.filemode(mode)} {owner:>11} {size:>12} {time:%Y-%m-%d %H:%M:%S} {short:12} "
        f"{shown_name(path)}"
    )


def _fields(manifest: Manifest, path: bytes, entry: Entry) -> dict[str, Any]:
    fields: dict[str, Any] = {"path": os.fsdecode(path)}
    header = manifest.directory(entry.tree) if isinstance(entry, Subdirectory) else entry
    match entry:
        case File(mode=mode, size=size, digest=digest, link=link):
            fields |= {"kind": "file", "mode": mode, "size": size, "digest": name_of(digest)}
            if link:
                fields["link"] = link.hex()
        case Subdirectory(tree=tree, entries=entries, size=size):
            fields |= {
                "kind": "directory",
                "names": entries,
                "size": size,
                "tree": name_of(tree),
            }
        case Symlink(target=target):
            fields |= {"kind": "symlink", "target": os.fsdecode(target)}
        case Special(mode=mode, major=major, minor=minor):
            fields |= {"kind": "special", "mode": mode, "major": major, "minor": minor}
    if isinstance(header, Directory):
        fields["mode"] = header.mode
    fields |= {"uid": header.uid, "gid": header.gid, "mtime_ns": header.mtime_ns}
    if header.xattrs:
        fields["xattrs"] = {os.fsdecode(name): value.hex() for name, value in header.xattrs}
    return fields
