"""Manifests: whole trees of directory nodes, and the stores that hold the nodes.

A store holds a node only when it holds all that lies below it, and only when what the node says
of its subdirectories (content digest, counts) is true. So ``digest in nodes`` means "the whole
tree is here", and nobody can put a subtree under a content digest that is not its own.
"""

import struct
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import msgspec

from filesync.digest import Digest, digest_of, short
from filesync.errors import MalformedManifest, NodeMissing
from filesync.manifest.node import (
    EMPTY_DIRECTORY,
    MAX_DEPTH,
    MAX_ENTRIES,
    MAX_LINKS,
    MAX_NODE_BYTES,
    Directory,
    Entry,
    File,
    Sketch,
    Subdirectory,
    Summary,
    content_digest,
    decode,
    decode_trusted,
    encode,
    header,
    sketch,
)

_SUMMARY: Final = struct.Struct("<32sQQQQ")


class Nodes(Protocol):
    """Where directory nodes are kept, by digest."""

    def __contains__(self, digest: object) -> bool:
        """Say whether the whole tree below ``digest`` is here."""

    def read(self, digest: Digest) -> bytes:
        """Return a node's bytes.

        Raises:
            NodeMissing: it is not here.
        """

    def summary(self, digest: Digest) -> Summary:
        """Return what a parent's entry must say of ``digest``.

        Raises:
            NodeMissing: it is not here.
        """

    def write(self, digest: Digest, data: bytes, summary: Summary) -> None:
        """Keep a node that has been checked. Idempotent."""


class MemoryNodes:
    """Nodes in a dictionary, as compact as a million directories need it."""

    def __init__(self) -> None:
        # A summary packed before its node is 350 bytes less than a tuple of objects.
        self._nodes: dict[Digest, bytes] = {}

    def __contains__(self, digest: object) -> bool:
        return digest in self._nodes

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Digest]:
        return iter(self._nodes)

    def read(self, digest: Digest) -> bytes:
        """Return a node's bytes."""
        return self._find(digest)[_SUMMARY.size :]

    def summary(self, digest: Digest) -> Summary:
        """Return what a parent's entry must say of ``digest``."""
        return Summary._make(_SUMMARY.unpack_from(self._find(digest)))

    def write(self, digest: Digest, data: bytes, summary: Summary) -> None:
        """Keep a node that has been checked."""
        self._nodes[digest] = _SUMMARY.pack(*summary) + data

    def _find(self, digest: Digest) -> bytes:
        try:
            return self._nodes[digest]
        except KeyError:
            raise NodeMissing(f"directory node {short(digest)} is not in this store") from None


class LayeredNodes:
    """Reads from ``upper``, then from ``lower``; writes to ``upper`` only.

    For a subset or a scan whose new nodes should be known apart from the old ones.
    """

    def __init__(self, upper: Nodes, lower: Nodes) -> None:
        self.upper = upper
        self.lower = lower

    def __contains__(self, digest: object) -> bool:
        return digest in self.upper or digest in self.lower

    def read(self, digest: Digest) -> bytes:
        """Return a node's bytes."""
        return self._holder(digest).read(digest)

    def summary(self, digest: Digest) -> Summary:
        """Return what a parent's entry must say of ``digest``."""
        return self._holder(digest).summary(digest)

    def write(self, digest: Digest, data: bytes, summary: Summary) -> None:
        """Keep a node in ``upper``, unless ``lower`` has it."""
        if digest not in self.lower:
            self.upper.write(digest, data, summary)

    def _holder(self, digest: Digest) -> Nodes:
        return self.upper if digest in self.upper else self.lower


def accept(nodes: Nodes, data: bytes) -> Digest:
    """Check a node that came from elsewhere, keep it, and return its digest.

    Its subdirectories must have been accepted before it: send children first.

    Raises:
        MalformedManifest: it breaks the format, or lies about a subdirectory.
        NodeMissing: a subdirectory's node is not here.
    """
    digest = digest_of(data)
    if digest in nodes:
        return digest
    directory = decode(data)
    for entry in directory.entries:
        if isinstance(entry, Subdirectory):
            true = nodes.summary(entry.tree)
            if (entry.content, entry.entries, entry.size, entry.links) != true[:4]:
                raise MalformedManifest(f"{entry.name!r}: what its parent says of it is not so")
    nodes.write(digest, data, summarise(nodes, directory))
    return digest


def put(nodes: Nodes, directory: Directory) -> Digest:
    """Encode and keep a directory of our own making; return its tree digest.

    Its entries must ascend by name and its subdirectories be in ``nodes``.

    Raises:
        MalformedManifest: it is too large or too deep for anybody to accept.
    """
    return put_encoded(nodes, directory, encode(directory))


def put_encoded(nodes: Nodes, directory: Directory, data: bytes) -> Digest:
    """Keep ``directory``, which ``encode`` made ``data`` of; else as ``put``."""
    if len(data) > MAX_NODE_BYTES:
        raise MalformedManifest(f"a directory node of {len(data)} bytes is over the limit")
    digest = digest_of(data)
    if digest not in nodes:
        nodes.write(digest, data, summarise(nodes, directory))
    return digest


def summarise(nodes: Nodes, directory: Directory) -> Summary:
    """Return the summary of ``directory``, whose subdirectories are in ``nodes``.

    Raises:
        MalformedManifest: it is deeper than ``MAX_DEPTH``, has more than ``MAX_ENTRIES`` names or
            ``MAX_LINKS`` links, or is larger than a size can say.
    """
    entries = len(directory.entries)
    size = links = depth = 0
    for entry in directory.entries:
        if isinstance(entry, File):
            size += entry.size
            links += bool(entry.link)
        elif isinstance(entry, Subdirectory):
            entries += entry.entries
            size += entry.size
            links += entry.links
            depth = max(depth, nodes.summary(entry.tree).depth)
    if depth >= MAX_DEPTH:
        raise MalformedManifest(f"more than {MAX_DEPTH} directories inside each other")
    if entries > MAX_ENTRIES or links > MAX_LINKS:
        raise MalformedManifest(
            f"a tree of more than {MAX_ENTRIES:,} names, or {MAX_LINKS:,} hard links"
        )
    if size >= 1 << 63:
        raise MalformedManifest("files of more than 2^63 bytes together")
    return Summary(content_digest(directory), entries, size, links, depth + 1)


def subdirectory(nodes: Nodes, name: bytes, tree: Digest) -> Subdirectory:
    """Return the entry by which a parent holds the directory ``tree`` as ``name``."""
    content, entries, size, links, _ = nodes.summary(tree)
    return Subdirectory(name, tree, content, entries, size, links)


class Manifest(msgspec.Struct, frozen=True):
    """A whole tree: the digest of its root node and the store that has the nodes."""

    tree: Digest
    nodes: Nodes

    @property
    def content(self) -> Digest:
        """The content digest of the whole tree."""
        return self.nodes.summary(self.tree).content

    @property
    def root(self) -> Directory:
        """The root directory."""
        return self.directory(self.tree)

    @property
    def header(self) -> Directory:
        """The root directory without its entries."""
        return header(self.nodes.read(self.tree))

    @property
    def summary(self) -> Summary:
        """Counts and sizes of the whole tree."""
        return self.nodes.summary(self.tree)

    def directory(self, tree: Digest) -> Directory:
        """Return one directory of this tree by its digest."""
        return decode_trusted(self.nodes.read(tree))

    def sketch(self, tree: Digest) -> Sketch:
        """Return the same with its entries as they are encoded."""
        return sketch(self.nodes.read(tree))

    def find(self, path: bytes) -> Entry | None:
        """Return the entry at ``path`` ('/'-separated, no link followed), or None.

        The root itself has no entry: an empty path gives None.
        """
        above, _, name = path.rstrip(b"/").rpartition(b"/")
        directory = self.find_directory(above)
        return None if directory is None else directory.find(name)

    def find_directory(self, path: bytes) -> Directory | None:
        """Return the directory at ``path``, likewise, or None; the root at an empty one."""
        directory = self.root
        for name in (part for part in path.split(b"/") if part):
            entry = directory.find(name)
            if not isinstance(entry, Subdirectory):
                return None
            directory = self.directory(entry.tree)
        return directory

    def walk(self) -> Iterator[tuple[bytes, Entry]]:
        """Yield (path, entry) of every name but the root's, in walk order.

        A directory comes before what is in it; names ascend within a directory.
        """
        # Of each directory on the way only how long its path is: all of them may be gigabytes.
        stack: list[tuple[int, Iterator[Entry]]] = [(0, iter(self.root.entries))]
        prefix = b""
        while stack:
            length, entries = stack[-1]
            prefix = prefix[:length]
            for entry in entries:
                path = prefix + entry.name
                yield path, entry
                if isinstance(entry, Subdirectory):
                    below = iter(self.directory(entry.tree).entries)
                    prefix = path + b"/"
                    stack.append((len(prefix), below))
                    break
            else:
                stack.pop()


def missing_nodes(nodes: Nodes, root: Digest, has: Callable[[Digest], bool]) -> Iterator[bytes]:
    """Yield the nodes below ``root`` that another store lacks, children first.

    ``has`` says whether the other store has a whole tree; what it has is not entered.
    """
    manifest = Manifest(root, nodes)
    seen: set[Digest] = set()
    stack: list[tuple[Digest, Iterator[Digest]]] = []

    def enter(digest: Digest) -> None:
        if digest not in seen and not has(digest):
            seen.add(digest)
            entries = manifest.directory(digest).entries
            stack.append((digest, (e.tree for e in entries if isinstance(e, Subdirectory))))

    enter(root)
    while stack:
        digest, children = stack[-1]
        child = next(children, None)
        if child is not None:
            enter(child)
        else:
            stack.pop()
            yield nodes.read(digest)


def note_tree(known: set[Digest], manifest: Manifest) -> None:
    """Add every directory of ``manifest`` to ``known``, entering only what is not in it yet."""
    stack = [manifest.tree]
    while stack:
        digest = stack.pop()
        if digest not in known:
            known.add(digest)
            entries = manifest.directory(digest).entries
            stack.extend(e.tree for e in entries if isinstance(e, Subdirectory))


def empty_manifest(nodes: Nodes) -> Manifest:
    """Return the tree of one empty directory, mode 0755, of root."""
    return Manifest(put(nodes, EMPTY_DIRECTORY), nodes)
