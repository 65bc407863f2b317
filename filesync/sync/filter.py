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
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from filesync.errors import UsageError

MAX_RULES: Final = 1000
MAX_WILDCARDS: Final = 64
MAX_RULE_BYTES: Final = 4096
MAX_ONLY_BYTES: Final = 128 << 10
"""Of the rules that take some paths only: a request has room for them."""
_WILD: Final = re.compile(rb"[*?\[]")
_SPECIAL: Final = re.compile(rb"[*?\[\\]")
_STARS: Final = re.compile(rb"\*+")
_NAMED: Final = re.compile(rb"\[:([^]]*):\]")
_RANGE: Final = re.compile(rb"-(?!\])\\?(.)", re.DOTALL)
_CLASSES: Final = {
    b"alnum": rb"0-9A-Za-z",
    b"alpha": rb"A-Za-z",
    b"blank": rb"\t ",
    b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": rb"0-9",
    b"graph": rb"!-~",
    b"lower": rb"a-z",
    b"print": rb" -~",
    b"punct": rb"!-/:-@\[-`{-~",
    b"space": rb"\t-\r ",
    b"upper": rb"A-Z",
    b"xdigit": rb"0-9A-Fa-f",
}
Match = Callable[[bytes], object]


class Filter:
    """Rules in the order of the command line: ``- pattern``, ``+ pattern``.

    A rule without either prefix excludes; ``!`` alone forgets the rules before it.

    Args:
        rules: as above.
        root: what is before the paths that are asked for, from the transfer's root on: b"" or
            a name and a slash.

    Raises:
        UsageError: a rule is empty or has more wildcards than anybody needs.
    """

    def __init__(self, rules: Sequence[bytes], *, root: bytes = b"") -> None:
        self._rules: list[_Rule] = []
        self._root = root
        for rule in rules:
            if rule == b"!":
                self._rules.clear()
                continue
            is_include = rule.startswith(b"+ ")
            pattern = rule[2:] if rule[:2] in (b"+ ", b"- ") else rule
            self._rules.append(_Rule(pattern, is_include=is_include))

    def __bool__(self) -> bool:
        """Say whether there is any rule."""
        return bool(self._rules)

    def excludes(self, path: bytes, is_directory: bool) -> bool:
        """Say whether the name at ``path``, whose parent is not left out, is left out."""
        path = self._root + path
        name = path[path.rfind(b"/") + 1 :]
        for rule in self._rules:
            if is_directory or not rule.only_directories:
                text = name if rule.by_name else path
                if is_directory and rule.takes_inside:
                    text += b"/"
                if rule.match(text):
                    return not rule.is_include
        return False


def literal(path: bytes) -> bytes | None:
    """Return a rule that excludes just ``path``, from the transfer's root on.

    None if there is none that a filter, or a peer, would take.
    """
    pattern = path
    if _WILD.search(path):
        pattern = _SPECIAL.sub(rb"\\\g<0>", path)
    if len(_WILD.findall(path)) > MAX_WILDCARDS or len(pattern) + 3 > MAX_RULE_BYTES:
        return None
    return b"- /" + pattern


def only(paths: Iterable[bytes]) -> tuple[bytes, ...] | None:
    """Return rules that leave out all but ``paths``, from the transfer's root on, and what is in them.

    What stands above one is not left out either, though it be no directory any more. None if there
    are none that a filter, or a peer, would take.
    """
    rules: dict[bytes, None] = {}
    for path in paths:
        names = path.split(b"/")
        down_to_it = [b"/".join(names[: depth + 1]) for depth in range(len(names))]
        inside = _SPECIAL.sub(rb"\\\g<0>", path) + b"/**"
        if len(_WILD.findall(inside)) > MAX_WILDCARDS or len(inside) + 3 > MAX_RULE_BYTES:
            return None
        for rule in map(literal, down_to_it):
            if rule is None:
                return None
            rules[b"+" + rule[1:]] = None
        rules[b"+ /" + inside] = None
    found = (*rules, b"- *")
    is_much = len(found) > MAX_RULES or sum(map(len, found)) > MAX_ONLY_BYTES
    return None if is_much else found


class _Rule:
    """One rule.

    Attributes:
        by_name: ``match`` takes the last part of the path.
        takes_inside: ``match`` takes a directory's path with a slash after it.
    """

    def __init__(self, pattern: bytes, *, is_include: bool) -> None:
        if not pattern:
            raise UsageError("an empty pattern matches nothing; leave it out")
        self.is_include = is_include
        self.only_directories = len(pattern) > 1 and pattern.endswith(b"/")
        if self.only_directories:
            pattern = pattern[:-1]
        self.takes_inside = pattern.endswith(b"***")
        slashes = pattern.count(b"/")
        self.by_name = not slashes and b"**" not in pattern
        self.match = _matcher(pattern, slashes)


def _matcher(pattern: bytes, slashes: int) -> Match:
    """Return what says whether a path (or last part) matches, as rsync's exclude.c does."""
    is_anchored = pattern.startswith(b"/")
    body = pattern[1:] if is_anchored else pattern
    if not _WILD.search(pattern):
        # Without a wildcard a backslash is a backslash.
        if is_anchored or not slashes:
            return body.__eq__
        return re.compile(rb"(?:.*/)?" + re.escape(body), re.DOTALL).fullmatch
    parts = _tokens(body)
    if parts is None or len(_WILD.findall(pattern)) > MAX_WILDCARDS:
        if parts is None:
            return _never
        raise UsageError(f"a pattern has more than {MAX_WILDCARDS} wildcards")
    if b"**" in pattern:
        # A pattern that starts with ** may begin with the slash before the first name.
        has_prefix = not is_anchored and not body.startswith(b"**")
        return _compiled(
            parts, b"(?:.*?/)??" if has_prefix else b"", slash=pattern[:2] == b"**"
        )
    if not is_anchored and slashes:
        if sum(token == b"/" for token in parts) != slashes:
            return _never  # one stands in brackets, where nothing matches it
        return _compiled(parts, b"(?:.*/)?")
    return _compiled(parts, b"")


def _never(_: bytes) -> bool:
    return False


_ANY: Final = b"**"
_SOME: Final = b"*"


def _compiled(tokens: list[bytes], prefix: bytes, *, slash: bool = False) -> Match:
    """Return a matcher for whole texts whose time is bounded by the text's length squared.

    All between two ``**`` is matched as early as it can be, and then for good (``(?>``): whatever
    follows ``**`` can only gain by that. The same holds for what is between two ``*``, as a
    ``*`` ends at the next slash wherever it began. So nothing is tried again and again, however
    the pattern was meant to hurt.
    """
    blocks: list[list[bytes]] = [[]]
    for token in tokens:
        if token == _ANY:
            blocks.append([])
        else:
            blocks[-1].append(token)
    expression = prefix + _block(blocks[0])
    if len(blocks) > 1:
        expression = b"(?>" + expression + b")"
        for block in blocks[1:-1]:
            expression += b"(?>.*?" + _block(block) + b")"
        expression += b".*" + _block(blocks[-1])
    match = re.compile(expression, re.DOTALL).fullmatch
    return (lambda text: match(b"/" + text)) if slash else match


def _block(tokens: list[bytes]) -> bytes:
    runs: list[list[bytes]] = [[]]
    for token in tokens:
        if token == _SOME:
            runs.append([])
        else:
            runs[-1].append(token)
    first, *middle = (b"".join(run) for run in runs)
    if not middle:
        return first
    last = middle.pop()
    return first + b"".join(b"(?>[^/]*?" + run + b")" for run in middle) + b"[^/]*" + last


def _tokens(pattern: bytes) -> list[bytes] | None:
    """Return regular expressions for one byte each, and ``*`` and ``**``; None if none matches."""
    tokens: list[bytes] = []
    at = 0
    while at < len(pattern):
        char = pattern[at : at + 1]
        if char == b"*":
            run = _STARS.match(pattern, at)
            assert run is not None
            tokens.append(_SOME if len(run[0]) == 1 else _ANY)
            at = run.end()
            continue
        if char == b"?":
            tokens.append(b"[^/]")
        elif char == b"[":
            found = _class(pattern, at + 1)
            if found is None:
                return None
            token, at = found
            tokens.append(token)
            continue
        elif char == b"\\":
            at += 1
            if at == len(pattern):
                return None
            tokens.append(re.escape(pattern[at : at + 1]))
        else:
            tokens.append(re.escape(char))
        at += 1
    return tokens


def _class(pattern: bytes, at: int) -> tuple[bytes, int] | None:
    """Return the expression for the brackets that open before ``at``, and where they end.

    They never match a slash. A ']' right after the opening is one of the characters.
    """
    is_negated = pattern[at : at + 1] in (b"!", b"^")
    at += is_negated
    allowed = previous = b""
    start = at
    while (char := pattern[at : at + 1]) and (char != b"]" or at == start):
        if named := _NAMED.match(pattern, at):
            if named[1] not in _CLASSES:
                return None
            allowed += _CLASSES[named[1]]
            previous = b""
            at = named.end()
        elif previous and (last := _RANGE.match(pattern, at)):
            if previous <= last[1]:
                allowed += _byte(previous) + b"-" + _byte(last[1])
            previous = b""
            at = last.end()
        else:
            at += char == b"\\"
            previous = pattern[at : at + 1]
            allowed += _byte(previous)
            at += 1
    if not char:
        return None
    if is_negated:
        return b"[^/" + allowed + b"]", at + 1
    return (b"(?!/)[" + allowed + b"]" if allowed else b"(?!)"), at + 1


def _byte(char: bytes) -> bytes:
    return b"\\x%02x" % ord(char) if char else b""
