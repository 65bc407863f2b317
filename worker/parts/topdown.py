"""An image's tree, read from the top layer down, until all that is asked for is known.

A name is known when a layer has it or takes it away; what is in a directory, when a layer closes
it or the lowest has been read. All else is for the next layer to say. So is, before anything else,
whether a directory that members stand in and none speaks of is one: were it a link in a lower layer,
what they say would be said of another place. Links are followed as ``filesync.trees.select`` does. Pure.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from filesync.digest import Digest, digest_of
from filesync.errors import PathMissing, UsageError
from filesync.manifest import (
    Directory,
    Entry,
    Expansion,
    File,
    LayeredNodes,
    Manifest,
    MemoryNodes,
    Nodes,
    Subdirectory,
    canonical_links,
    grow,
)
from filesync.manifest.node import LINK_GROUP_BYTES
from filesync.trees.find import Kept
from filesync.trees.select import Selector, select
from worker.layers.member import Member, directory_of, leaf_entry
from worker.parts.errors import NotInParts
from worker.parts.listing import (
    MADE_ON_THE_WAY,
    Branch,
    Leaf,
    Lower,
    Node,
    implied,
    is_settled,
    is_there,
    list_layer,
)
from worker.parts.probe import Probe, Unread

NO_CONTENT: Final = digest_of(b"")


class Found(msgspec.Struct, frozen=True):
    """All that was asked for.

    Attributes:
        manifest: what the selector leaves of the image. Contents have made-up digests.
        leaves: by such a digest, the file whose content it is.
    """

    manifest: Manifest
    leaves: dict[Digest, Leaf]

    def files(self) -> set[Leaf]:
        """Return the files that have to be read; an empty one need not."""
        files = (entry for _, entry in self.manifest.walk() if isinstance(entry, File))
        return {self.leaves[entry.digest] for entry in files if entry.size}

    def proved(self, contents: Mapping[Leaf, Digest], nodes: Nodes) -> Manifest:
        """Return the tree with the contents that its files turned out to have, kept in ``nodes``."""
        names = Counter(
            entry.digest for _, entry in self.manifest.walk() if isinstance(entry, File)
        )

        def entry(one: File) -> File:
            content = contents[self.leaves[one.digest]] if one.size else NO_CONTENT
            link = one.digest[:LINK_GROUP_BYTES] if names[one.digest] > 1 else b""
            return msgspec.structs.replace(one, digest=content, link=link)

        def expand(at: Directory) -> Expansion[Directory]:
            below = [one for one in at.entries if isinstance(one, Subdirectory)]
            children = [(one.name, self.manifest.directory(one.tree)) for one in below]
            others = [one for one in at.entries if not isinstance(one, Subdirectory)]
            entries: list[Entry] = [
                entry(one) if isinstance(one, File) else one for one in others
            ]
            return Expansion(at, entries, children)

        return Manifest(canonical_links(nodes, grow(nodes, self.manifest.root, expand)), nodes)


class _At(NamedTuple):
    """A directory on its way into a manifest; all of it where ``kept`` is None."""

    branch: Branch
    kept: Kept | None


class TopDown:
    """The layers of one image that have been read so far."""

    def __init__(self, selector: Selector, layers: int) -> None:
        self._selector = selector
        self._layers = layers
        self._read: list[Sequence[Member]] = []
        self._unsure: set[tuple[bytes, ...]] = set()
        self.root = Branch()

    @property
    def is_whole(self) -> bool:
        """Whether the lowest layer has been read."""
        return len(self._read) == self._layers

    def add(self, members: Sequence[Member]) -> None:
        """Take the next layer, which lies below all others.

        Raises:
            BadLayer, NotInParts: see ``list_layer``.
        """
        layer = list_layer(len(self._read), members)
        unsure = {path for path in self._unsure if not is_settled(layer, path)}
        self._unsure = unsure.union(implied(layer))
        lay_under(self.root, layer)
        self._read.append(members)

    def found(self) -> Found | None:
        """Return what the selector names, or None if a lower layer has a say in it.

        A literal path that is not there is left out: who reads the answer misses it again.

        Raises:
            NotInParts: an image of which nobody can tell in parts.
        """
        if self._unsure and not self.is_whole:
            return None
        probe = self._probe(self.root)
        try:
            picks = [pick for pick in self._selector.picks if probe.finds(pick)]
            leaves: dict[Digest, Leaf] = {}
            nodes = MemoryNodes()
            tree = grow(nodes, _At(self.root, probe.kept), lambda at: self._expand(at, leaves))
        except Unread:
            return None
        scratch = LayeredNodes(MemoryNodes(), nodes)
        return Found(select(Manifest(tree, nodes), Selector(tuple(picks)), scratch), leaves)

    def hides(self, parts: Sequence[bytes]) -> bool:
        """Say whether the layers read so far hide what a lower one has at ``parts``."""
        at: Node | None = self.root
        for part in parts:
            if not isinstance(at, Branch):
                return True
            if part not in at.below:
                return at.is_closed
            at = at.below[part]
        return not isinstance(at, Branch) or at.header is not None

    def _expand(self, at: "_At", leaves: dict[Digest, Leaf]) -> Expansion["_At"]:
        header = directory_of(at.branch.header or MADE_ON_THE_WAY)
        expansion: Expansion[_At] = Expansion(header, [], [])
        is_all = at.kept is None or at.kept.whole
        for name in at.branch.below if is_all else at.kept.below if at.kept else ():
            node = at.branch.below.get(name)
            if isinstance(node, Branch):
                if is_there(node):
                    kept = None if is_all or at.kept is None else at.kept.below[name]
                    expansion.children.append((name, _At(node, kept)))
            elif node is not None:
                leaf = self._leaf(node)
                made_up = digest_of(b"%d %d" % (leaf.layer, leaf.number))
                leaves[made_up] = leaf
                expansion.entries.append(leaf_entry(leaf.member, name, made_up))
        return expansion

    def _probe(self, root: Branch) -> Probe:
        return Probe(root, self._leaf, is_whole=self.is_whole)

    def _leaf(self, node: Leaf | Lower) -> Leaf:
        """Return the file behind a name; a hard link may lead into the layers below its own."""
        if not isinstance(node, Lower):
            return node
        root = Branch()
        for number in range(node.layer + 1, len(self._read)):
            lay_under(root, list_layer(number, self._read[number]))
        try:
            _, found = self._probe(root).follow(node.path, follow_last=False)
        except (PathMissing, UsageError) as exc:
            raise NotInParts("a hard link to what is not there") from exc
        if isinstance(found, Branch):
            raise NotInParts("a hard link to a directory")
        return found


def lay_under(upper: Branch, lower: Branch) -> None:
    """Lay a lower layer under what the layers above it say; both are used up."""
    todo = [(upper, lower)]
    while todo:
        above, below = todo.pop()
        above.header = above.header or below.header
        above.is_made |= below.is_made
        if above.is_closed:
            continue
        above.is_closed = below.is_closed
        for name, node in below.below.items():
            if name not in above.below:
                above.below[name] = node
                continue
            there = above.below[name]
            if not isinstance(there, Branch) or (there.is_closed and there.header):
                continue
            if isinstance(node, Branch):
                todo.append((there, node))
            elif node is None:
                _lay_on_nothing(above, name, there)
            else:
                there.is_closed = True


def _lay_on_nothing(above: Branch, name: bytes, there: Branch) -> None:
    if there.header is None and not there.is_made:
        above.below[name] = None
    else:
        there.header = there.header or MADE_ON_THE_WAY
        there.is_closed = True
