"""What changes, a line a name, as ``rsync --itemize-changes`` writes it.

``YXcstpoguax name``: Y is ``>`` or ``<`` for a file that is received or sent, ``c`` for what is
made on the spot (a directory, a link, a device), ``h`` for a name that is linked to another, ``.``
for what only gets other metadata. X is the kind: ``f d L D S``. The rest names what differs:
content (``c``; of a file, with --checksum or where neither size nor time shows it), size, time,
permissions, owner, group, ACL, xattrs; or is all ``+`` for what is new, be it in place of another
kind. ``*deleting`` comes before what is gone, and what was in a directory that something replaces.
"""

import re
import stat
from collections.abc import Iterator
from typing import Final

from filesync.errors import LocalError
from filesync.manifest import (
    Directory,
    Entry,
    File,
    Manifest,
    Special,
    Subdirectory,
    Symlink,
    Xattrs,
    link_groups,
)
from filesync.sync.plan import Plan
from filesync.trees.diff import diff

_NEW: Final = "+" * 9
_SAME: Final = "." * 9
_NAME_AT: Final = len(".f") + len(_NEW) + 1
_ACLS: Final = b"system.posix_acl_"
_UNPRINTABLE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]|\\\\(?=#[0-7]{3})"
)
_Known = File | Symlink | Special


def itemize(
    plan: Plan,
    *,
    prefix: bytes = b"",
    is_sent: bool = False,
    is_new: bool = False,
    given_as: bytes | None = None,
    checksum: bool = False,
) -> Iterator[str]:
    """Yield a line for each name that changes, in walk order.

    What is gone from a directory comes before what changes in it, the deepest first.

    Args:
        plan: what changes.
        prefix: what the names begin with: nothing, or a name and a slash.
        is_sent: it goes to another machine.
        is_new: the root is made, too.
        given_as: what the one name that is given was called, if it gets another.
        checksum: of files whose content differs this is said, too, where size or time shows it.
    """
    lines = _Lines(
        plan, prefix, ">" if not is_sent else "<", given_as=given_as, checksum=checksum
    )
    if is_new and plan.is_done:  # nothing looks like an empty directory of 1970
        yield _made(prefix)
    for change in diff(plan.basis, plan.target):
        path = change.path + b"/" if change.path else b""
        for entry in change.removed:
            yield from lines.deleted(path, entry)
        for before, after in change.changed:
            if isinstance(before, Subdirectory) and not isinstance(after, Subdirectory):
                yield from lines.emptied(path, before)
        if is_new and not path:
            yield _made(prefix)
        elif change.old is not None and (differs := _of_header(change.old, change.new)):
            yield f".d{differs} {shown_name(prefix + path or b'./')}"
        added = [(None, entry) for entry in change.added]
        for old, new in sorted([*added, *change.changed], key=lambda pair: pair[1].name):
            yield from lines.given(path, old, new)


def _made(prefix: bytes) -> str:
    return f"cd{_NEW} {shown_name(prefix or b'./')}"


def name_in(line: str) -> str:
    """Return what ``rsync --verbose`` says for a line of ``itemize``: the name."""
    name = line[_NAME_AT:]
    return f"deleting {name}" if line.startswith("*") else name


def shown_name(name: bytes) -> str:
    """Return ``name`` on one line: what cannot be printed as '#', after a backslash, and octal."""
    text = name.decode("utf-8", "surrogateescape")
    return _UNPRINTABLE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return "".join(f"\\#{byte:03o}" for byte in match[0].encode("utf-8", "surrogateescape"))


class _Lines:
    def __init__(
        self, plan: Plan, prefix: bytes, arrow: str, *, given_as: bytes | None, checksum: bool
    ) -> None:
        self._plan = plan
        self._prefix = prefix
        self._arrow = arrow
        self._given_as = given_as
        self._checksum = checksum
        self._first = {group: paths[0] for group, paths in link_groups(plan.target).items()}

    def deleted(self, path: bytes, entry: Entry) -> Iterator[str]:
        """Yield a line for ``entry`` of the basis and, before it, for each name below it."""
        stack: list[tuple[bytes, Entry, Iterator[Entry]]] = []
        below: Entry | None = entry
        while below is not None:
            if isinstance(below, Subdirectory):
                entries = iter(self._plan.basis.directory(below.tree).entries)
                stack.append((path, below, entries))
                path += below.name + b"/"
            else:
                yield self._gone(path, below)
            while stack and (below := next(stack[-1][2], None)) is None:
                path, done, _ = stack.pop()
                yield self._gone(path, done)
            if not stack:
                return

    def emptied(self, path: bytes, directory: Subdirectory) -> Iterator[str]:
        """Yield lines for all that is in a directory of the basis, which something replaces."""
        for entry in self._plan.basis.directory(directory.tree).entries:
            yield from self.deleted(path + directory.name + b"/", entry)

    def _gone(self, path: bytes, entry: Entry) -> str:
        slash = b"/" if isinstance(entry, Subdirectory) else b""
        return f"*deleting   {shown_name(self._prefix + path + entry.name + slash)}"

    def given(self, path: bytes, old: Entry | None, new: Entry) -> Iterator[str]:
        """Yield a line for ``new`` of the target and for all below it if it is a new directory."""
        if isinstance(new, Subdirectory):
            yield self._new(path, new)
            below = Manifest(new.tree, self._plan.target.nodes)
            start = path + new.name + b"/"
            for inner, entry in below.walk():
                yield self._new(start + inner[: len(inner) - len(entry.name)], entry)
        elif old is None or isinstance(old, Subdirectory) or _kind(old) != _kind(new):
            yield self._new(path, new)
        elif line := self._changed(path, old, new):
            yield line

    def _new(self, path: bytes, entry: Entry) -> str:
        name = self._name(path, entry)
        match entry:
            case Subdirectory():
                return f"cd{_NEW} {name}/"
            case Symlink(target=target):
                return f"cL{_NEW} {name} -> {shown_name(target)}"
            case Special():
                return f"c{_kind(entry)}{_NEW} {name}"
            case File():
                leader = self._leader(path, entry)
                return f"{'h' if leader else self._arrow}f{_NEW} {name}{leader}"

    def _changed(self, path: bytes, old: _Known, new: _Known) -> str:
        """Return a line for what both trees have.

        "" when only its group's name differs, or when it was linked to the group's first before, and
        has what that gets.
        """
        differs = _differences(old, new, checksum=self._checksum)
        leader, arrow = "", "."
        if isinstance(old, File) and isinstance(new, File):
            leader = self._leader(path, new)
            is_same = old.digest == new.digest and old.mtime_ns == new.mtime_ns
            if leader and old.link == new.link and is_same:
                return ""
            if leader:
                arrow = "h"
            elif old.digest != new.digest:
                arrow = self._arrow
        elif differs.startswith("c"):
            arrow = "c"
        if differs == _SAME:
            if not leader:
                return ""
            differs = " " * 9
        target = f" -> {shown_name(new.target)}" if isinstance(new, Symlink) else ""
        name = self._name(path, new)
        return f"{arrow}{_kind(new)}{differs} {name}{target}{leader}"

    def _name(self, path: bytes, entry: Entry) -> str:
        return shown_name(self._given_as or self._prefix + path + entry.name)

    def _leader(self, path: bytes, entry: File) -> str:
        first = self._first.get(entry.link, b"") if entry.link else b""
        is_first = not first or first == path + entry.name
        return "" if is_first else f" => {shown_name(self._prefix + first)}"


def _differences(old: _Known, new: _Known, *, checksum: bool) -> str:
    """Return the nine letters for two entries of one kind."""
    content = size = False
    mode = (0, 0)
    match old, new:
        case File(), File():
            size = old.size != new.size
            is_shown = size or old.mtime_ns != new.mtime_ns
            content = old.digest != new.digest and (checksum or not is_shown)
            mode = (old.mode, new.mode)
        case Symlink(), Symlink():
            content = old.target != new.target
        case Special(), Special():
            mode = (stat.S_IMODE(old.mode), stat.S_IMODE(new.mode))
            content = _device(old) != _device(new)
        case _:
            raise LocalError("two entries of different kinds are compared")
    return _letters(
        content,
        size,
        old.mtime_ns != new.mtime_ns,
        mode[0] != mode[1],
        old.uid != new.uid,
        old.gid != new.gid,
        *_xattrs_differ(old.xattrs, new.xattrs),
    )


def _of_header(old: Directory, new: Directory) -> str:
    """Return the nine letters for a directory itself; "" when nothing of it differs."""
    letters = _letters(
        False,
        False,
        old.mtime_ns != new.mtime_ns,
        old.mode != new.mode,
        old.uid != new.uid,
        old.gid != new.gid,
        *_xattrs_differ(old.xattrs, new.xattrs),
    )
    return "" if letters == _SAME else letters


def _letters(*differ: bool) -> str:
    """Return letters for content, size, time, mode, owner, group, ACL and xattrs."""
    letters = [
        letter if it_does else "." for letter, it_does in zip("cstpogax", differ, strict=True)
    ]
    letters.insert(6, ".")  # access and creation times, which are not synced
    return "".join(letters)


def _xattrs_differ(old: Xattrs, new: Xattrs) -> tuple[bool, bool]:
    """Say whether ACLs differ, and whether other xattrs do."""
    if old == new:
        return False, False
    names = {name for name, _ in set(old) ^ set(new)}
    acls = {name for name in names if name.startswith(_ACLS)}
    return bool(acls), bool(names - acls)


def _device(entry: Special) -> tuple[int, int, int]:
    return stat.S_IFMT(entry.mode), entry.major, entry.minor


def _kind(entry: Entry) -> str:
    match entry:
        case File():
            return "f"
        case Subdirectory():
            return "d"
        case Symlink():
            return "L"
        case Special():
            return "S" if stat.S_ISFIFO(entry.mode) else "D"
