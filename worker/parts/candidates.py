"""Which files of a layer may turn out to be asked for, told while the layer streams by.

A guess on the safe side of few bytes: what it lets go by and is asked for after all has to be read
once more. It knows the paths that a selector names, and where links lead that it has seen. Pure.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from filesync.errors import UsageError
from filesync.manifest import MAX_DEPTH
from filesync.trees.find import clean, text_of
from filesync.trees.glob import compile_name
from filesync.trees.select import Selector, pattern_of
from worker.layers.apply import path_parts
from worker.layers.member import LINK, SYMLINK, Member

MAX_PATTERNS: Final = 200
MAX_LINKS: Final = 20_000
"""Beyond these no link is followed any more, so that a hostile layer costs no time."""

Step = bytes | Callable[[str], object]
"""One name of a path, or what matches some."""
Pattern = tuple[Step, ...]


class Candidates:
    """The paths that may be asked for of one image, as far as its links are known."""

    def __init__(self, selector: Selector) -> None:
        self._patterns: list[Pattern] = []
        self._links: list[tuple[list[bytes], Pattern]] = []
        self._seen: set[Pattern] = set()
        for pick in selector.picks:
            try:
                prefix, rest = pattern_of(pick)
                self._add((*prefix, *map(compile_name, rest)))
            except UsageError:
                continue

    def note(self, members: Iterable[Member]) -> None:
        """Take notice of the links among some members; their order is of no matter."""
        for member in members:
            if member.kind == SYMLINK and len(member.link) > 0:
                parts = path_parts(member.path)
                above = [] if member.link.startswith(b"/") else parts[:-1]
                self._note(parts, tuple(clean(b"/".join((*above, member.link)))))
            elif member.kind == LINK:
                self._note(path_parts(member.path), tuple(path_parts(member.link)))

    def has(self, parts: Sequence[bytes]) -> bool:
        """Say whether the file at ``parts`` may be asked for."""
        return any(
            len(pattern) <= len(parts) and _matches(pattern, parts)
            for pattern in self._patterns
        )

    def _note(self, parts: list[bytes], target: Pattern) -> None:
        if not parts or len(self._links) >= MAX_LINKS:
            return
        self._links.append((parts, target))
        for pattern in list(self._patterns):
            self._add(_led(pattern, parts, target))

    def _add(self, pattern: Pattern | None) -> None:
        """Take a pattern, and those that it leads to through links that are known."""
        todo = [pattern]
        while todo:
            one = todo.pop()
            if one is None or one in self._seen or len(self._patterns) >= MAX_PATTERNS:
                continue
            self._seen.add(one)
            self._patterns.append(one)
            todo.extend(_led(one, parts, target) for parts, target in self._links)


def _led(pattern: Pattern, parts: Sequence[bytes], target: Pattern) -> Pattern | None:
    """Return where ``pattern`` leads through the link at ``parts``, if it goes there."""
    if len(parts) <= len(pattern) <= MAX_DEPTH and _matches(pattern, parts):
        return (*target, *pattern[len(parts) :])
    return None


def _matches(pattern: Pattern, parts: Sequence[bytes]) -> bool:
    """Say whether all names match that both have."""
    return all(
        step == part if isinstance(step, bytes) else step(text_of(part))
        for step, part in zip(pattern, parts, strict=False)
    )
