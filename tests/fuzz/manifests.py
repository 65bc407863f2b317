"""Directory nodes from elsewhere: alone, in packs, and in files."""

import random
from io import BytesIO
from itertools import islice
from typing import Final

import msgspec
import zstandard

from filesync.digest import digest_of
from filesync.errors import MalformedManifest, NodeMissing
from filesync.manifest import (
    EMPTY_DIRECTORY,
    Entry,
    File,
    Manifest,
    MemoryNodes,
    Special,
    Symlink,
    accept,
    canonical_links,
    decode,
    encode,
    missing_nodes,
    put,
    subdirectory,
    with_entries,
)
from filesync.manifest.pack import accept_pack, unpack_nodes
from filesync.sync.manifests.file import _read, manifest_chunks
from tests.fuzz import mutation
from tests.fuzz.mutation import Mutate

NODE: Final = b"n"
PACK: Final = b"p"
PLAIN_PACK: Final = b"l"
FILE: Final = b"f"


def fuzz(data: bytes) -> None:
    """Take ``data`` as what its first byte says."""
    kind, data = data[:1], data[1:]
    try:
        if kind == NODE:
            _take_node(data)
        elif kind == PACK:
            _take_pack(data)
        elif kind == PLAIN_PACK:
            # Whoever guesses at compressed bytes seldom gets at what is in them.
            _take_pack(zstandard.ZstdCompressor(level=1).compress(data))
        elif kind == FILE:
            _look_at(_read(BytesIO(data)))
    except (MalformedManifest, NodeMissing):
        pass


def mutated(data: bytes, rng: random.Random, mutate: Mutate) -> bytes:
    """Return ``data`` with something in a node changed; what names a changed node follows."""
    kind, data = data[:1], data[1:]
    if kind == NODE:
        return kind + mutation.mutated(data, rng, mutate)
    try:
        nodes = msgspec.msgpack.decode(data, type=list[bytes])
    except msgspec.MsgspecError:
        nodes = []
    if kind != PLAIN_PACK or not nodes or rng.random() < 0.2:
        return kind + mutate(data)
    at = rng.randrange(len(nodes))
    old, nodes[at] = digest_of(nodes[at]), mutation.mutated(nodes[at], rng, mutate)
    for later in range(at + 1, len(nodes)):
        new = nodes[later].replace(old, digest_of(nodes[at]))
        at, old, nodes[later] = later, digest_of(nodes[later]), new
    return kind + msgspec.msgpack.encode(nodes)


def seeds() -> list[bytes]:
    """Return nodes of all kinds of entries, packs of them, and a file."""
    manifest = _tree()
    nodes = list(missing_nodes(manifest.nodes, manifest.tree, lambda _: False))
    listed = msgspec.msgpack.encode(nodes)
    packed = zstandard.ZstdCompressor(level=3).compress(listed)
    written = b"".join(manifest_chunks(manifest))
    return [
        *(NODE + node for node in nodes),
        PLAIN_PACK + listed,
        PACK + packed,
        FILE + written,
    ]


def _take_node(data: bytes) -> None:
    directory = decode(data)
    assert encode(directory) == data
    nodes = MemoryNodes()
    _look_at(Manifest(accept(nodes, data), nodes))


def _take_pack(data: bytes) -> None:
    nodes = MemoryNodes()
    count = len(unpack_nodes(data))
    digests = accept_pack(nodes, data)
    assert len(digests) == count
    if digests:
        _look_at(Manifest(digests[-1], nodes))


def _look_at(manifest: Manifest) -> None:
    summary = manifest.summary
    walked = sum(1 for _ in islice(manifest.walk(), 1000))
    assert walked == min(summary.entries, 1000)
    if summary.links < 1000:
        canonical_links(manifest.nodes, manifest.tree)


def _tree() -> Manifest:
    nodes = MemoryNodes()
    some, xattrs = digest_of(b"x"), ((b"user.a", b"1"), (b"user.b", b""))
    linked = [File(name, 0o644, 0, 0, 1, 9, some, b"8 bytes!") for name in (b"a", b"b")]
    below = put(nodes, with_entries(EMPTY_DIRECTORY, linked))
    entries: list[Entry] = [
        File(b"file", 0o4755, 1, 2, -3, 1 << 40, some, b"", xattrs),
        Symlink(b"link", 0, 0, 0, b"../../etc", xattrs),
        Special(b"null", 0o020666, 0, 0, 0, 1, 3),
        subdirectory(nodes, b"sub", below),
    ]
    return Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, entries)), nodes)
