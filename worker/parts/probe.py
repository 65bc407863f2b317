"""What picks name in an image of which the topmost layers have been read. Pure."""

from collections.abc import Callable, Sequence

from filesync.errors import PathMissing, UsageError
from filesync.trees.find import End, Kept, text_of, walk
from filesync.trees.glob import compile_name
from filesync.trees.select import Pick, pattern_of
from worker.layers.member import SYMLINK
from worker.parts.listing import Branch, Leaf, Lower, Node, is_there


class Unread(Exception):
    """It is for the next layer to say."""


class Probe:
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
        if pick.parents and self._root.header is None and not self._is_whole:
            raise Unread  # a link on the way may lead to the root, whose attributes are then read
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
        except PathMissing:
            return pick.parents and bool(patterns)
        if not isinstance(start, Branch):
            return pick.parents
        level: list[tuple[tuple[bytes, ...], Node]] = [(names, start)]
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
        except (PathMissing, UsageError):
            if not may_dangle:
                raise
            return
        self.kept.at(real).whole = True
        if isinstance(node, Branch):
            self._check_all(node)

    def follow(
        self, names: Sequence[bytes], *, follow_last: bool = True
    ) -> tuple[tuple[bytes, ...], Branch | Leaf]:
        """Resolve ``names`` from the root; ``walk`` says what else it raises.

        Raises:
            Unread: see there.
        """
        return walk(self._root, names, self._look, self.kept, follow_last=follow_last)

    def _look(self, at: Branch, name: bytes) -> Branch | End[Leaf] | None:
        if name not in at.below and not self._is_known(at):
            raise Unread
        node = at.below.get(name)
        if node is None or isinstance(node, Branch):
            return node if node is not None and is_there(node) else None
        leaf = self._leaf(node)
        return End(leaf, leaf.member.link if leaf.member.kind == SYMLINK else None)

    def _is_known(self, at: Branch) -> bool:
        return at.is_closed or self._is_whole

    def _entries(self, at: Branch, names: Sequence[bytes]) -> list[tuple[bytes, Node]]:
        if not self._is_known(at):
            raise Unread
        self.kept.at(names)
        return [
            (name, node)
            for name, node in at.below.items()
            if node is not None and (not isinstance(node, Branch) or is_there(node))
        ]

    def _check_all(self, branch: Branch) -> None:
        """Raise ``Unread`` unless all that is below is known."""
        todo = [branch]
        while todo:
            at = todo.pop()
            is_nameless = at is self._root and at.header is None
            if (is_nameless or not at.is_closed) and not self._is_whole:
                raise Unread
            todo.extend(node for node in at.below.values() if isinstance(node, Branch))
