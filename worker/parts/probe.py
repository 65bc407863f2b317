"""What picks name in an image of which the topmost layers have been read. Pure."""

from collections.abc import Callable, Sequence

from filesync.errors import UsageError
from filesync.find import MAX_LINKS, Kept, text_of
from filesync.glob import compile_name
from filesync.select import Pick, pattern_of
from worker.layers.member import SYMLINK
from worker.parts.listing import Branch, Leaf, Lower, Node, is_there


class Unread(Exception):
    """It is for the next layer to say."""


class Absent(Exception):
    """It is not there."""


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
        except Absent:
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
        except (Absent, UsageError):
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
            Unread, Absent: see there.
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
                    raise Absent
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
            raise Unread
        if node is None or (isinstance(node, Branch) and not is_there(node)):
            raise Absent
        return node

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
