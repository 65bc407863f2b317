"""What one layer says, as a tree of its own: names that it makes, and names that it takes away.

It means what ``worker.layers.apply`` does with the same members, as far as that can be told
without the layers below. Where it cannot, as where a member's own path leads through a link that
a lower layer has, ``NotInParts`` says so. Pure.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from filesync.disk.handles import shown
from filesync.manifest import EMPTY_DIRECTORY, is_name
from worker.layers.apply import is_aufs, path_parts
from worker.layers.errors import BadLayer
from worker.layers.member import (
    CHARACTER,
    DIRECTORY,
    LINK,
    OPAQUE,
    SYMLINK,
    WHITEOUT,
    Member,
    directory_member,
)
from worker.parts.errors import NotInParts

MAX_TARGET_BYTES: Final = 4096
"""A link's text is shorter."""
MADE_ON_THE_WAY: Final = directory_member(b"", EMPTY_DIRECTORY)
"""What a directory is like that members stand in and none speaks of."""


class Leaf(NamedTuple):
    """What is no directory. Two names with equal leaves are hard links.

    Attributes:
        layer: the layer's number, from 0 for the topmost.
        number: the member's, in its layer.
    """

    layer: int
    number: int
    member: Member


class Lower(NamedTuple):
    """A hard link to what the layers below ``layer`` have at ``path``."""

    layer: int
    path: tuple[bytes, ...]


class Branch(msgspec.Struct):
    """A directory, as far as the layers say that have been read.

    Attributes:
        header: what it is like; None where that is for lower layers to say, which may say
            that it is no directory.
        is_made: something that stands in it makes it be there.
        is_closed: lower layers have no say in what is in it.
        is_implied: a member of this layer spoke of what is in it before any spoke of it.
        below: None is a name that lower layers may have and that is gone.
    """

    header: Member | None = None
    is_made: bool = False
    is_closed: bool = False
    is_implied: bool = False
    below: dict[bytes, "Node | None"] = msgspec.field(default_factory=dict)


Node = Branch | Leaf | Lower


def list_layer(layer: int, members: Iterable[Member]) -> Branch:
    """Return the tree of the layer with that number.

    Raises:
        BadLayer: no such layer can be applied.
        NotInParts: only with the layers below can it be told what it does.
    """
    listing = _Listing(layer)
    for number, member in enumerate(members):
        listing.add(number, member)
    return listing.root


class _Listing:
    def __init__(self, layer: int) -> None:
        self.root = Branch()
        self._layer = layer

    def add(self, number: int, member: Member) -> None:
        parts = path_parts(member.path)
        if not all(map(is_name, parts)):
            raise BadLayer(f"{shown(member.path)} has a name that no file has")
        if not parts:
            if member.kind != DIRECTORY:
                raise BadLayer("the root of a layer is not a directory")
            self.root.header, self.root.is_made = member, True
        elif is_aufs(parts):
            pass
        elif parts[-1].startswith(WHITEOUT):
            self._remove(parts)
        else:
            self._make(number, member, parts)

    # --- making -------------------------------------------------------------------------------

    def _make(self, number: int, member: Member, parts: list[bytes]) -> None:
        target = self._target(member, parts) if member.kind == LINK else None
        at = self._enter(parts[:-1], make=True)
        assert at is not None
        name = parts[-1]
        there = at.below.get(name)
        if isinstance(there, Branch) and member.kind != DIRECTORY:
            raise NotInParts(f"a layer has {shown(member.path)} as two things")
        if target is not None:
            at.below[name] = target
        elif member.kind == DIRECTORY:
            self._make_directory(at, name, member)
        elif member.kind == SYMLINK and not 0 < len(member.link) < MAX_TARGET_BYTES:
            raise BadLayer(f"{shown(member.path)} is a link to nothing")
        elif member.kind == CHARACTER and not (member.major or member.minor):
            raise BadLayer(f"{shown(member.path)} is the device by which overlays hide names")
        else:
            at.below[name] = Leaf(self._layer, number, member)

    def _make_directory(self, at: Branch, name: bytes, member: Member) -> None:
        there = at.below.get(name)
        if isinstance(there, Branch):
            there.header, there.is_made = member, True
        else:
            is_new = at.is_closed or name in at.below
            at.below[name] = Branch(member, is_made=True, is_closed=is_new)

    def _target(self, member: Member, parts: list[bytes]) -> Leaf | Lower:
        """Return what a hard link is a link to."""
        target = path_parts(member.link)
        at: Branch | None = self.root
        for part in target[:-1]:
            assert at is not None
            there = at.below.get(part)
            if part not in at.below and not at.is_closed:
                return Lower(self._layer, tuple(target))
            if not isinstance(there, Branch):
                raise NotInParts(f"a hard link through {shown(part)}")
            at = there
        if not target or target == parts or at is None:
            raise NotInParts("a hard link to no file")
        there = at.below.get(target[-1])
        if isinstance(there, Leaf | Lower):
            return there
        if target[-1] in at.below or at.is_closed:
            raise NotInParts(f"a hard link to {shown(member.link)}, which is not there")
        return Lower(self._layer, tuple(target))

    def _enter(self, parts: list[bytes], *, make: bool) -> Branch | None:
        """Return the directory at ``parts``; None where it is gone, and not to be made."""
        at = self.root
        at.is_made |= make
        for part in parts:
            there = at.below.get(part)
            if there is None:
                is_new = at.is_closed or part in at.below
                if is_new and not make:
                    return None
                header = MADE_ON_THE_WAY if is_new else None
                there = Branch(header, is_closed=is_new, is_implied=not is_new)
                at.below[part] = there
            elif not isinstance(there, Branch):
                raise NotInParts(f"a member below {shown(part)}, which is no directory")
            there.is_made |= make
            at = there
        return at

    # --- removing -----------------------------------------------------------------------------

    def _remove(self, parts: list[bytes]) -> None:
        at = self._enter(parts[:-1], make=False)
        gone = parts[-1].removeprefix(WHITEOUT)
        if at is None:
            return
        if parts[-1] == OPAQUE:
            _close(at)
        elif gone in (b"", b".", b".."):
            raise BadLayer(f"{shown(b'/'.join(parts))} would remove no name")
        else:
            there = at.below.get(gone)
            if isinstance(there, Branch):
                _check_explicit(there, gone)
                _close(there)
            elif there is None and not at.is_closed:
                at.below[gone] = None


def _close(branch: Branch) -> None:
    """Take away all that lower layers have in a directory; what this layer made stays."""
    todo = [branch]
    while todo:
        at = todo.pop()
        at.is_closed = True
        for name, node in list(at.below.items()):
            if node is None:
                del at.below[name]
            elif isinstance(node, Branch):
                _check_explicit(node, name)
                todo.append(node)


def _check_explicit(branch: Branch, name: bytes) -> None:
    if branch.is_implied:
        # Whether it was there before, where and like what, the layers below know.
        raise NotInParts(f"a layer takes away {shown(name)} after it went through it")


# --- what a listing leaves open -----------------------------------------------------------------


def is_there(branch: Branch) -> bool:
    """Whether a directory is there, and not just spoken of by whiteouts in it."""
    return branch.header is not None or branch.is_made


def implied(root: Branch) -> Iterator[tuple[bytes, ...]]:
    """Yield the directories of a layer that its members stand in before any speaks of them."""
    todo: list[tuple[tuple[bytes, ...], Branch]] = [((), root)]
    while todo:
        path, at = todo.pop()
        if at.is_implied:
            yield path
        for name, node in at.below.items():
            if isinstance(node, Branch):
                todo.append(((*path, name), node))


def is_settled(root: Branch, path: Sequence[bytes]) -> bool:
    """Whether a layer says that a directory is at ``path``, or nothing.

    Raises:
        NotInParts: it says that something else is there.
    """
    at: Branch = root
    for part in path:
        node = at.below.get(part)
        if node is None:
            return at.is_closed or part in at.below
        if not isinstance(node, Branch):
            raise NotInParts(f"a layer goes through {shown(part)}, which is no directory below")
        at = node
    return at.header is not None
