"""What a sync leaves out: rsync's include and exclude rules.

The first rule that matches a name decides; a name that none matches is in. A directory that is
left out is not entered. On the receiving side the same rules say what ``--delete`` leaves alone.

A pattern without '/' (but at its end) and without ``**`` is matched against the last part of the
path; any other against the end of the path, from part to part; one that starts with '/' against
all of the path, which begins at the transfer's root: what a source that ends in '/' holds, or
what a source without it stands in. ``*`` and ``?`` do not match '/', ``**`` does. A pattern that
ends in '/' matches directories only, ``dir/***`` a directory and all that is in it.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from filesync.sync.patterns import MAX_WILDCARDS, WILD, How, Pattern, understand

if TYPE_CHECKING:
    from filesync.disk.scanning.wanted import IsWay

MAX_RULES: Final = 1000
MAX_RULE_BYTES: Final = 4096
MAX_ONLY_BYTES: Final = 128 << 10
"""Of the rules that take some paths only: a request has room for them."""
_SPECIAL: Final = re.compile(rb"[*?\[\\]")
_OF_NAMES_BYTES: Final = 16 << 10
"""Of expressions that become one: ``re`` keeps the last 512, which may be a peer's."""
_OF_PATHS_BYTES: Final = 512
"""Of those for whole paths, which may be long: while one is compared no other thread runs."""
Decides = Callable[[bytes, bool], bool | None]
"""Says whether the name at a path, which may be that of a directory, is left out; or does not say."""


class Filter:
    """Rules in the order of the command line: ``- pattern``, ``+ pattern``.

    A rule without either prefix excludes; ``!`` alone forgets the rules before it.

    Args:
        rules: as above.
        root: what is before the paths that are asked for, from the transfer's root on: b"" or
            a name and a slash.
        before: asked of each path from the transfer's root on, and whether it is a directory; None leaves it to the rules.
        ways: says which directories that are not left out are there for what is in them alone; None: none is.

    Raises:
        UsageError: a rule is empty or has more wildcards than anybody needs.
    """

    def __init__(
        self,
        rules: Sequence[bytes],
        *,
        root: bytes = b"",
        before: Decides | None = None,
        ways: "IsWay | None" = None,
    ) -> None:
        self._before = before
        self._ways = ways
        self._includes: list[bool] = []
        self._root = b"/" + root
        patterns: list[Pattern | None] = []
        for rule in rules:
            if rule == b"!":
                self._includes.clear()
                patterns.clear()
                continue
            is_marked = rule[:2] in (b"+ ", b"- ")
            patterns.append(understand(rule[2:] if is_marked else rule))
            self._includes.append(rule.startswith(b"+ "))
        self._of_directories = _Rules(patterns, are_directories=True)
        self._of_others = _Rules(patterns, are_directories=False)

    def __bool__(self) -> bool:
        """Say whether there is any rule."""
        return bool(self._includes) or self._before is not None

    @property
    def has_ways(self) -> bool:
        """Say whether there may be any (see ``is_way``)."""
        return self._ways is not None

    def excludes(self, path: bytes, is_directory: bool) -> bool:
        """Say whether the name at ``path``, whose parent is not left out, is left out."""
        if self._before is not None:
            is_left_out = self._before((self._root + path)[1:], is_directory)
            if is_left_out is not None:
                return is_left_out
        rules = self._of_directories if is_directory else self._of_others
        first = rules.first(self._root + path)
        return first is not None and not self._includes[first]

    def is_way(self, path: bytes) -> bool:
        """Say whether the directory at ``path``, which is not left out, is there for what is in it alone."""
        return self._ways is not None and self._ways((self._root + path)[1:])


def in_force(rules: Sequence[bytes]) -> Sequence[bytes]:
    """Return ``rules`` without a '!' and those before it, which it cancels: others may stand before them."""
    return rules[max((at for at, rule in enumerate(rules) if rule == b"!"), default=-1) + 1 :]


def literal(path: bytes) -> bytes | None:
    """Return a rule that excludes just ``path``, from the transfer's root on.

    None if there is none that a filter, or a peer, would take.
    """
    pattern = path
    if WILD.search(path):
        pattern = _SPECIAL.sub(rb"\\\g<0>", path)
    if len(WILD.findall(path)) > MAX_WILDCARDS or len(pattern) + 3 > MAX_RULE_BYTES:
        return None
    return b"- /" + pattern


def all_in(path: bytes) -> bytes | None:
    """Return a rule that excludes just what is in the directory ``path``, or the root; as ``literal``."""
    pattern = _SPECIAL.sub(rb"\\\g<0>", path) + (b"/*" if path else b"*")
    if len(WILD.findall(pattern)) > MAX_WILDCARDS or len(pattern) + 3 > MAX_RULE_BYTES:
        return None
    return b"- /" + pattern


def only(paths: Iterable[bytes], rules: Sequence[bytes]) -> tuple[bytes, ...] | None:
    """Return rules that leave out what ``rules`` do, and all but ``paths``, from the transfer's root on.

    What stands above one, or in what is a directory by now, is left to ``rules``, as whatever it is. None
    if there are none that a filter, or a peer, would take.
    """
    filter = Filter(rules)
    as_before: dict[bytes, None] = {}
    others: dict[bytes, None] = {}
    for path in paths:
        at = b""
        for name in path.split(b"/"):
            beside, at = all_in(at), at + b"/" + name if at else name
            rule = literal(at)
            if rule is None or beside is None:
                return None
            others[beside] = None
            of_directory, of_other = (
                (b"-" if filter.excludes(at, is_directory) else b"+") + rule[1:]
                for is_directory in (True, False)
            )
            if of_directory != of_other:
                as_before[of_directory + b"/"] = None
            as_before[of_other] = None
    found = (*as_before, *others, *in_force(rules))
    is_long = any(len(rule) > MAX_RULE_BYTES for rule in found)
    is_much = len(found) > MAX_RULES or sum(map(len, found)) > MAX_ONLY_BYTES
    return None if is_long or is_much else found


First = Callable[[bytes, int], int]
"""Takes a text, and a number; returns the place of the first pattern that matches, or the number."""


class _Rules:
    """The rules for directories, or for all else, by what they look at."""

    def __init__(self, patterns: Sequence[Pattern | None], *, are_directories: bool) -> None:
        self._number = len(patterns)
        by_text: dict[tuple[bool, bytes], dict[int, Pattern]] = {}
        for at, pattern in enumerate(patterns):
            if pattern is not None and (are_directories or not pattern.only_directories):
                after = b"/" if are_directories and pattern.takes_inside else b""
                by_text.setdefault((pattern.by_name, after), {})[at] = pattern
        self._by_text = [
            (by_name, after, list(_firsts(found, by_name=by_name)))
            for (by_name, after), found in by_text.items()
        ]

    def first(self, path: bytes) -> int | None:
        """Return the first rule that matches ``path``, which begins with a slash."""
        first = number = self._number
        for by_name, after, firsts in self._by_text:
            text = path[path.rfind(b"/") + 1 :] if by_name else path + after
            for first_of in firsts:
                if (at := first_of(text, number)) < first:
                    first = at
        return first if first < number else None


def _firsts(patterns: Mapping[int, Pattern], *, by_name: bool) -> Iterator[First]:
    """Yield what compares one text with many patterns at once; they are by their places, ascending."""
    same: dict[bytes, int] = {}
    ends: dict[bytes, int] = {}
    plain: dict[int, Pattern] = {}
    needled: dict[int, Pattern] = {}
    for at, pattern in patterns.items():
        match pattern.how:
            case How.IS:
                same.setdefault(pattern.value, at)
            case How.ENDS:
                ends.setdefault(pattern.value, at)
            case How.MATCHES:
                (needled if pattern.needle else plain)[at] = pattern
    if same:
        yield same.get
    if ends:
        yield _first_end(ends)
    most_bytes = _OF_NAMES_BYTES if by_name else _OF_PATHS_BYTES
    for some in (plain, needled):
        yield from map(_first_match, _portions(some, most_bytes))


def _first_end(ends: Mapping[bytes, int]) -> First:
    endings = tuple(ends)

    def first(text: bytes, number: int) -> int:
        if not text.endswith(endings):
            return number
        return min(at for end, at in ends.items() if text.endswith(end))

    return first


def _first_match(patterns: Mapping[int, Pattern]) -> First:
    """Return what asks ``patterns``, all of which have a needle, or none."""
    places = list(patterns)
    # The group that tells which of them it was stands behind it: most begin with a byte, by which
    # ``re`` then passes over all others.
    together = b"|".join(pattern.value + b"()" for pattern in patterns.values())
    match = re.compile(together, re.DOTALL).fullmatch
    # Most texts have none of the needles, which is found out in a tenth of the time.
    may_match = re.compile(b"|".join({one.needle: None for one in patterns.values()})).search

    def first(text: bytes, number: int) -> int:
        found = match(text) if may_match(text) else None
        return places[found.lastindex - 1] if found and found.lastindex else number

    return first


def _portions(patterns: Mapping[int, Pattern], most_bytes: int) -> Iterator[dict[int, Pattern]]:
    """Yield ``patterns`` in portions whose expressions can be one, of at most so many bytes."""
    portion: dict[int, Pattern] = {}
    size = 0
    for at, pattern in patterns.items():
        if portion and size + len(pattern.value) > most_bytes:
            yield portion
            portion, size = {}, 0
        portion[at] = pattern
        size += len(pattern.value)
    if portion:
        yield portion
