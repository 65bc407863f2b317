"""What a manager does not know of a tree: asked in few questions, each of which costs a round trip."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from filesync.digest import Digest
from filesync.manifest import Manifest, Subdirectory, missing_nodes
from filesync.manifest.pack import pack_nodes
from solver.wire import MAX_DIGESTS

ASKED_AT_FIRST: Final = 1000
"""Directories in the first question: 32 kB, however large the tree; ten times as many in the next."""
_NODE_BYTES: Final = 512
"""Of nodes that are read for each directory in a question: to look for more takes milliseconds."""


class Unknown:
    """The directories of a tree that a manager does not know.

    It is asked from the root down, several levels at once. What it knows it knows whole, so an
    unchanged tree costs one question, and so does any of a thousand directories.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._unknown: set[Digest] = set()
        self._asked: set[Digest] = set()
        self._top = [manifest.tree]
        self._most = ASKED_AT_FIRST

    def question(self) -> tuple[Digest, ...]:
        """Return which directories to ask for next, ``answered`` having been told the last answer.

        None when all is known.
        """
        asked = self._from_the_top()
        self._asked.update(asked)
        return tuple(asked)

    def answered(self, trees: Iterable[Digest]) -> None:
        """Take note of which of those that were asked for are unknown."""
        unknown = self._asked.intersection(trees) - self._unknown
        self._unknown |= unknown
        below = {tree for one in unknown for tree in _subtrees(self._manifest, one)}
        self._top = sorted(below.union(self._top) - self._asked)
        self._most = min(self._most * 10, MAX_DIGESTS)

    def packs(self) -> Iterator[bytes]:
        """Yield the nodes that are unknown, as the manager takes them."""
        nodes = self._manifest.nodes
        return pack_nodes(missing_nodes(nodes, self._manifest.tree, self._is_known))

    def _is_known(self, tree: Digest) -> bool:
        return tree not in self._unknown

    def _from_the_top(self) -> Sequence[Digest]:
        """Return the directories in ``_top``, then those below, level by level, but not too many."""
        found = dict.fromkeys(self._top)
        room = self._most * _NODE_BYTES
        waiting = deque(self._top)
        while waiting and len(found) < self._most and room > 0:
            tree = waiting.popleft()
            room -= len(self._manifest.nodes.read(tree))
            below = {one: None for one in _subtrees(self._manifest, tree) if one not in found}
            found |= below
            waiting.extend(below)
        return list(islice(found, self._most))


def _subtrees(manifest: Manifest, tree: Digest) -> Iterator[Digest]:
    entries = manifest.directory(tree).entries
    return (entry.tree for entry in entries if isinstance(entry, Subdirectory))
