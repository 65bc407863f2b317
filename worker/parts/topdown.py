"""An image's tree, read from the top layer down, until all that is asked for is known.

A name is known when a layer has it or takes it away; what is in a directory, when a layer closes
it or the lowest has been read. All else is for the next layer to say. So is, before anything else,
whether a directory that members stand in and none speaks of is one: were it a link in a lower layer,
what they say would be said of another place. Links are followed as ``filesync.select`` does. Pure.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from filesync.digest import Digest, digest_of
from filesync.errors import UsageError
from filesync.find import MAX_LINKS, Kept, text_of
from filesync.glob import compile_name
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
from filesync.select import Pick, Selector, pattern_of, select
from worker.layers.member import SYMLINK, Member, directory_of, leaf_entry
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

NO_CONTENT: Final = digest_of(b"")


class _Unread(Exception):
    """It is for the next layer to say."""


class _Absent(Exception):
    """It is not there."""


@dataclass(frozen=True, slots=True)
class Found:
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
        except _Unread:
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

    def _probe(self, root: Branch) -> "_Probe":
        return _Probe(root, self._leaf, is_whole=self.is_whole)

    def _leaf(self, node: Leaf | Lower) -> Leaf:
        """Return the file behind a name; a hard link may lead into the layers below its own."""
        while isinstance(node, Lower):
            root = Branch()
            for number in range(node.layer + 1, len(self._read)):
                lay_under(root, list_layer(number, self._read[number]))
            try:
                _, found = self._probe(root).follow(node.path, follow_last=False)
            except (_Absent, UsageError) as exc:
                raise NotInParts("a hard link to what is not there") from exc
            if isinstance(found, Branch):
                raise NotInParts("a hard link to a directory")
            node = found
        return node


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


# --- what a selector names ----------------------------------------------------------------------


class _Probe:
    """Finds what picks name, and notes in ``kept`` whatever it passes on the way."""

    def __init__(
        self, root: Branch, leaf: Callable[[Leaf | Lower], Leaf], *, is_whole: bool
    ) -> None:
        self.kept = Kept()
        self._root = root
        self._leaf = leaf
        self._is_whole = is_whole

    def finds(self, pick: Pick) -> bool:
        """Note all that a pick names; False where it is an error to ask for it."""
        patterns: list[str] = []
        try:
            prefix, patterns = pattern_of(pick)
            tests = [compile_name(part) for part in patterns]
            if not tests:
                self._pick(prefix)
                return True
            names, start = self.follow(prefix)
        except UsageError:
            return False
        except _Absent:
            return bool(patterns)
        level = [(names, start)]
        for test in tests:
            level = [
                ((*above, name), node)
                for above, at in level
                if isinstance(at, Branch)
                for name, node in self._entries(at, above)
                if test(text_of(name))
            ]
        for path, _ in level:
            self._pick(path, may_dangle=True)
        return True

    def _pick(self, names: Sequence[bytes], *, may_dangle: bool = False) -> None:
        before, _ = self.follow(names, follow_last=False)
        self.kept.at(before)
        try:
            real, node = self.follow(names)
        except (_Absent, UsageError):
            if not may_dangle:
                raise
            return
        self.kept.at(real).whole = True
        if isinstance(node, Branch):
            self._check_all(node)

    def follow(
        self, names: Sequence[bytes], *, follow_last: bool = True
    ) -> tuple[tuple[bytes, ...], Node]:
        """Resolve ``names`` from the root as ``filesync.find.Finder.follow`` does.

        Raises:
            _Unread, _Absent: see there.
            UsageError: more than ``MAX_LINKS`` links.
        """
        todo = list(names)[::-1]
        real: list[bytes] = []
        at = [self._root]
        links = 0
        while todo:
            name = todo.pop()
            if name == b"..":
                self.kept.at(real)
                del real[-1:]
                del at[len(real) + 1 :]
                continue
            node = self._look(at[-1], name)
            if isinstance(node, Branch):
                real.append(name)
                at.append(node)
                continue
            member = self._leaf(node).member
            text = member.link if member.kind == SYMLINK else None
            if text is None or not (todo or follow_last):
                if todo:
                    raise _Absent
                return (*real, name), node
            self.kept.at([*real, name])
            links += 1
            if links > MAX_LINKS:
                raise UsageError(f"more than {MAX_LINKS} links on the way")
            if text.startswith(b"/"):
                del real[:], at[1:]
            todo.extend([part for part in text.split(b"/") if part not in (b"", b".")][::-1])
        return tuple(real), at[-1]

    def _look(self, at: Branch, name: bytes) -> Node:
        node = at.below.get(name)
        if name not in at.below and not self._is_known(at):
            raise _Unread
        if node is None or (isinstance(node, Branch) and not is_there(node)):
            raise _Absent
        return node

    def _is_known(self, at: Branch) -> bool:
        return at.is_closed or self._is_whole

    def _entries(self, at: Branch, names: Sequence[bytes]) -> list[tuple[bytes, Node]]:
        if not self._is_known(at):
            raise _Unread
        self.kept.at(names)
        return [
            (name, node)
            for name, node in at.below.items()
            if node is not None and (not isinstance(node, Branch) or is_there(node))
        ]

    def _check_all(self, branch: Branch) -> None:
        """Raise ``_Unread`` unless all that is below is known."""
        todo = [branch]
        while todo:
            at = todo.pop()
            is_nameless = at is self._root and at.header is None
            if (is_nameless or not at.is_closed) and not self._is_whole:
                raise _Unread
            todo.extend(node for node in at.below.values() if isinstance(node, Branch))
