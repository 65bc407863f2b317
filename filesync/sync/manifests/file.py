r"""Manifests as files: a whole tree's names, metadata and digests, without its contents.

| bytes | |
| --- | --- |
| 8 | ``\x89FSTREE\n`` |
| 2 | version, big-endian: 1 |
| 32 | tree digest of the root |
| 4 + n, any number of times | length n, big-endian, and a pack of nodes (``filesync.manifest.pack``) |
| 4 | zero: the end of the file |

Each node comes once, after those that it refers to, so a reader checks each as it comes; the root
is the last. The root's digest covers all of it, so there is no other check sum.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from filesync.digest import Digest
from filesync.disk.handles import shown
from filesync.errors import MalformedManifest, NodeMissing, StoreError
from filesync.manifest import Manifest, MemoryNodes, missing_nodes
from filesync.manifest.pack import MAX_PACK_BYTES, accept_pack, pack_nodes

MAGIC: Final = b"\x89FSTREE\n"
VERSION: Final = 1
MAX_NODES: Final = 1 << 22
MAX_FILE_BYTES: Final = 1 << 30
_LENGTH_BYTES: Final = 4
_DIGEST_BYTES: Final = 32


def manifest_chunks(manifest: Manifest) -> Iterator[bytes]:
    """Yield the bytes of the file for ``manifest``, a piece of about 1 MiB at a time."""
    yield MAGIC + VERSION.to_bytes(2, "big") + manifest.tree
    for pack in pack_nodes(missing_nodes(manifest.nodes, manifest.tree, lambda _: False)):
        yield len(pack).to_bytes(_LENGTH_BYTES, "big")
        yield pack
    yield bytes(_LENGTH_BYTES)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write the file; whoever reads ``path`` meanwhile sees the old one or the new one.

    A link is followed. What is no regular file, a pipe or a device, is written to as it is.

    Raises:
        StoreError: it cannot be written.
    """
    check_output(path)
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                file.writelines(manifest_chunks(manifest))
        else:
            _replace(path.resolve(), manifest)
    except OSError as exc:
        raise StoreError(
            f"{shown(os.fsencode(path))} cannot be written: {exc.strerror}"
        ) from exc


def check_output(path: Path) -> None:
    """Check what shows before a tree is scanned that is to be written to ``path``.

    Raises:
        StoreError: it is a directory.
    """
    if path.is_dir():
        raise StoreError(f"{shown(os.fsencode(path))} is a directory; name a file")


def _replace(path: Path, manifest: Manifest) -> None:
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with new.open("xb") as file:
            file.writelines(manifest_chunks(manifest))
        new.replace(path)
    except OSError:
        with suppress(OSError):
            new.unlink()
        raise


def read_manifest(path: Path) -> Manifest:
    """Return what the file at ``path`` holds.

    Raises:
        MalformedManifest: it is no manifest, is not whole, or holds more than this reads.
        StoreError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return _read(file)
    except OSError as exc:
        raise StoreError(f"{shown(os.fsencode(path))}: {exc.strerror}") from exc
    except (MalformedManifest, NodeMissing) as exc:
        raise MalformedManifest(
            f"{shown(os.fsencode(path))}: {exc}; make it again with `filesync manifest -o`"
        ) from exc


def _read(file: BinaryIO) -> Manifest:
    if file.read(len(MAGIC)) != MAGIC:
        raise MalformedManifest("it is no manifest")
    version = int.from_bytes(_exactly(file, 2), "big")
    if version != VERSION:
        raise MalformedManifest(
            f"it is a manifest of version {version}, and this reads {VERSION}"
        )
    tree = Digest(_exactly(file, _DIGEST_BYTES))
    nodes = MemoryNodes()
    read_bytes = 0
    while length := int.from_bytes(_exactly(file, _LENGTH_BYTES), "big"):
        read_bytes += length
        if length > MAX_PACK_BYTES or read_bytes > MAX_FILE_BYTES or len(nodes) > MAX_NODES:
            raise MalformedManifest("it holds more than any honest manifest")
        accept_pack(nodes, _exactly(file, length))
    if file.read(1):
        raise MalformedManifest("something comes after its end")
    if tree not in nodes:
        raise MalformedManifest("it does not hold the tree that it is to hold")
    return Manifest(tree, nodes)


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise MalformedManifest("it ends too early")
    return data
