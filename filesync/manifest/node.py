"""Directory nodes: the entries of one directory, encoded, named by their BLAKE3.

A node is one MessagePack array ``[0, mode, uid, gid, mtime_ns, xattrs, entries]``; an entry is
an array that begins with its kind's number. Names ascend by bytes. Only the encoding that
``encode`` gives is valid: ``decode`` encodes again and compares, so that one directory never
has two digests.

A node has two digests. The *tree* digest is that of its encoding, mtimes and all, and is what
a sync compares. The *content* digest leaves out mtimes and hard-link groups and is what cache
keys use: two trees of equal content digests give a build step the same bytes and modes.
"""

import stat
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import compress, repeat, takewhile
from operator import attrgetter, eq, lt, ne
from typing import Annotated, Final, NamedTuple

import msgspec

from filesync.decoding import UNDECODABLE
from filesync.digest import Digest, WireDigest, digest_of
from filesync.errors import MalformedManifest

MAX_NODE_BYTES: Final = 32 << 20
"""Bound on one encoded directory: about 400,000 files in it."""
MAX_DEPTH: Final = 4000
"""Bound on directories inside each other."""
MAX_NAME_BYTES: Final = 255
MAX_ENTRIES: Final = 1 << 27
"""Bound on the names in one tree. Sixty nodes, each twice in the next, would have 2^60."""
MAX_LINKS: Final = 1 << 24
"""Bound on those in hard-link groups; who looks through the groups holds their paths."""
MAX_XATTR_BYTES: Final = 64 << 10

Name = Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_NAME_BYTES)]
Mode = Annotated[int, msgspec.Meta(ge=0, le=0o7777)]
Id = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
Size = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
TimeNs = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Xattr = tuple[Name, Annotated[bytes, msgspec.Meta(max_length=MAX_XATTR_BYTES)]]
Xattrs = Annotated[tuple[Xattr, ...], msgspec.Meta(max_length=1024)]
LinkGroup = Annotated[bytes, msgspec.Meta(max_length=8)]
LINK_GROUP_BYTES: Final = 8


# Entries hold no cycles: out of the garbage collector's sight they are made in half the time.


class File(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """A regular file.

    Attributes:
        size: bytes of content.
        digest: BLAKE3 of the content.
        link: names the hard-link group within this tree (see ``filesync.manifest.links``);
            empty for a file with one name.
    """

    name: Name
    mode: Mode
    uid: Id
    gid: Id
    mtime_ns: TimeNs
    size: Size
    digest: WireDigest
    link: LinkGroup = b""
    xattrs: Xattrs = ()


class Subdirectory(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """A directory below this one; its mode, owner and times are in its own node.

    Attributes:
        tree: digest of its node.
        content: its content digest.
        entries: names below it, at any depth.
        size: sum of the sizes of the files below it.
        links: names below it that are in a hard-link group.
    """

    name: Name
    tree: WireDigest
    content: WireDigest
    entries: Size
    size: Size
    links: Size


class Symlink(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """A symbolic link. ``target`` is kept to the letter and never followed on the way."""

    name: Name
    uid: Id
    gid: Id
    mtime_ns: TimeNs
    target: Annotated[bytes, msgspec.Meta(min_length=1, max_length=4095)]
    xattrs: Xattrs = ()


class Special(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """A FIFO or a device node; ``mode`` has the type's bits (``stat.S_IFIFO`` …)."""

    name: Name
    mode: Annotated[int, msgspec.Meta(ge=0, le=0o177777)]
    uid: Id
    gid: Id
    mtime_ns: TimeNs
    major: Id = 0
    minor: Id = 0
    xattrs: Xattrs = ()


Entry = File | Subdirectory | Symlink | Special


_name: Final = attrgetter("name")


class Directory(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """One directory: its own metadata and its entries, ascending by name."""

    mode: Mode
    uid: Id
    gid: Id
    mtime_ns: TimeNs
    xattrs: Xattrs
    entries: tuple[Entry, ...]

    @property
    def header(self) -> "Directory":
        """The directory's own metadata, without entries."""
        return Directory(self.mode, self.uid, self.gid, self.mtime_ns, self.xattrs, ())

    def find(self, name: bytes) -> Entry | None:
        """Return the entry called ``name``."""
        at = bisect_left(self.entries, name, key=_name)
        if at < len(self.entries) and self.entries[at].name == name:
            return self.entries[at]
        return None


EMPTY_DIRECTORY: Final = Directory(0o755, 0, 0, 0, (), ())


class Summary(NamedTuple):
    """What a parent's entry says of a directory, and how deep it goes."""

    content: Digest
    entries: int
    size: int
    links: int
    depth: int


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Directory)
_NO_NAMES: Final = frozenset((b".", b".."))


def encode(directory: Directory) -> bytes:
    """Return the node of ``directory``, whose entries must ascend by name."""
    return _encoder.encode(directory)


def decode(data: bytes) -> Directory:
    """Return the directory in ``data``.

    Raises:
        MalformedManifest: ``data`` is not what ``encode`` gives for any valid directory.
    """
    if len(data) > MAX_NODE_BYTES:
        raise MalformedManifest(f"a directory node of {len(data)} bytes is over the limit")
    try:
        directory = _decoder.decode(data)
    except UNDECODABLE as exc:
        raise MalformedManifest(f"not a directory node: {exc}") from exc
    _check(directory)
    if _encoder.encode(directory) != data:
        raise MalformedManifest("a directory node is not in its canonical encoding")
    return directory


def decode_trusted(data: bytes) -> Directory:
    """Return the directory in ``data``, which ``decode`` has accepted before."""
    return _decoder.decode(data)


class _Header(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """A ``Directory`` of which the entries are not looked at."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: Xattrs

    @property
    def header(self) -> Directory:
        """The directory without its entries."""
        return Directory(self.mode, self.uid, self.gid, self.mtime_ns, self.xattrs, ())


class Sketch(_Header, frozen=True, array_like=True, tag=0):
    """A ``Directory`` of which no more is looked at than where its entries are."""

    entries: list[msgspec.Raw]


_headers: Final = msgspec.msgpack.Decoder(_Header)
_sketches: Final = msgspec.msgpack.Decoder(Sketch)
_entries: Final = msgspec.msgpack.Decoder(Entry)
_SUBDIRECTORY: Final = b"\x97\x02"
"""What the canonical encoding of a ``Subdirectory`` begins with: seven fields, its tag."""


def header(data: bytes) -> Directory:
    """Return the directory in a node of ours without its entries.

    Of many entries it costs a tenth of ``decode_trusted``.
    """
    return _headers.decode(data).header


def sketch(data: bytes) -> Sketch:
    """Return what a node of ours holds, its entries as they are encoded."""
    return _sketches.decode(data)


def differing(
    old: Sequence[msgspec.Raw], new: Sequence[msgspec.Raw]
) -> tuple[list[Entry], list[Entry]]:
    """Return the entries that only one of two directories has, in order, and few besides.

    Where few differ, it costs a quarter of what it takes to decode all and to compare them.
    """
    end = 0
    if len(old) != len(new):
        # Behind a name that comes or goes all stand elsewhere, but as far from the end.
        end = _alike(reversed(old), reversed(new))
        old, new = old[: len(old) - end], new[: len(new) - end]
    differs = [*map(ne, old, new)]
    differs += repeat(True, max(len(old), len(new)) - len(differs))
    return _decoded(compress(old, differs)), _decoded(compress(new, differs))


def _alike(one: Iterable[msgspec.Raw], other: Iterable[msgspec.Raw]) -> int:
    """Return how many of two lists' entries are equal before the first that is not."""
    return sum(1 for _ in takewhile(bool, map(eq, one, other)))


def _decoded(entries: Iterable[msgspec.Raw]) -> list[Entry]:
    return [_entries.decode(entry) for entry in entries]


class _File(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """A ``File`` of which nothing is looked at."""


class _Symlink(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """A ``Symlink`` of which nothing is looked at."""


class _Special(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """A ``Special`` of which nothing is looked at."""


class _Branches(_Header, frozen=True, array_like=True, tag=0):
    """A ``Directory`` of which only the subdirectories are looked at."""

    entries: list[Subdirectory | _File | _Symlink | _Special]


_branches: Final = msgspec.msgpack.Decoder(_Branches)


def subdirectories(data: bytes) -> list[Subdirectory]:
    """Return the subdirectories in a node, which need not have been checked.

    Most nodes have none and cost next to nothing; the others cost half of ``decode`` at most.

    Raises:
        MalformedManifest: it is no node, as far as was looked.
    """
    if len(data) > MAX_NODE_BYTES:
        raise MalformedManifest(f"a directory node of {len(data)} bytes is over the limit")
    if _SUBDIRECTORY not in data:
        return []
    try:
        entries = _branches.decode(data).entries
    except UNDECODABLE as exc:
        raise MalformedManifest(f"not a directory node: {exc}") from exc
    return [entry for entry in entries if type(entry) is Subdirectory]


def pieces(data: bytes) -> list[bytes]:
    """Return a node of ours in pieces: what is before its entries, and each of them."""
    entries = list(map(bytes, _sketches.decode(data).entries))
    return [data[: len(data) - sum(map(len, entries))], *entries]


def content_digest(directory: Directory) -> Digest:
    """Return the digest that leaves out mtimes and hard-link groups."""
    header = (directory.mode, directory.uid, directory.gid, directory.xattrs)
    # A bare array takes a third of the time that another ``Entry`` and its encoding take; and by
    # far the most are files, for which a call would take as long again.
    plain = [
        (1, e.name, e.mode, e.uid, e.gid, 0, e.size, e.digest, b"", e.xattrs)
        if isinstance(e, File)
        else _without_times(e)
        for e in directory.entries
    ]
    return digest_of(_encoder.encode((1, *header, plain)))


def _without_times(entry: Subdirectory | Symlink | Special) -> tuple[object, ...]:
    """Return what is encoded as ``entry`` without its times would be."""
    match entry:
        case Subdirectory(name, _, content, entries, size, _):
            return (2, name, content, content, entries, size, 0)
        case Symlink(name, uid, gid, _, target, xattrs):
            return (3, name, uid, gid, 0, target, xattrs)
        case Special(name, mode, uid, gid, _, major, minor, xattrs):
            return (4, name, mode, uid, gid, 0, major, minor, xattrs)


def is_name(name: bytes) -> bool:
    """Say whether ``name`` can be that of an entry."""
    return (
        0 < len(name) <= MAX_NAME_BYTES
        and b"/" not in name
        and b"\0" not in name
        and name not in _NO_NAMES
    )


def folded(name: bytes) -> str:
    """Return what is the same of names that differ in case alone."""
    return name.decode("utf-8", "surrogateescape").lower()


def _check(directory: Directory) -> None:
    # Whole lists at a time: a loop over the names takes six times as long.
    names = [entry.name for entry in directory.entries]
    if not all(map(lt, names, names[1:])):
        at = next(i for i in range(len(names)) if names[i + 1] <= names[i])
        raise MalformedManifest(f"name {names[at + 1]!r} is not after {names[at]!r}")
    joined = b"".join(names)
    if b"/" in joined or b"\0" in joined or not _NO_NAMES.isdisjoint(names):
        bad = next(name for name in names if not is_name(name))
        raise MalformedManifest(f"{bad!r} cannot be a name")
    for entry in directory.entries:
        if isinstance(entry, File):
            if entry.link or entry.xattrs:
                _check_xattrs(entry.xattrs)
                _check_kind(entry)
        elif not isinstance(entry, Subdirectory):
            _check_xattrs(entry.xattrs)
            _check_kind(entry)
    _check_xattrs(directory.xattrs)


def _check_kind(entry: File | Symlink | Special) -> None:
    match entry:
        case File():
            if entry.link and len(entry.link) != LINK_GROUP_BYTES:
                raise MalformedManifest(
                    f"{entry.name!r}: a link group of {len(entry.link)} bytes"
                )
        case Symlink():
            if b"\0" in entry.target:
                raise MalformedManifest(f"{entry.name!r}: NUL in a link's target")
        case Special():
            if stat.S_IFMT(entry.mode) not in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK):
                raise MalformedManifest(f"{entry.name!r}: {entry.mode:o} is no special file")


def _check_xattrs(xattrs: Xattrs) -> None:
    if not xattrs:
        return
    previous = b""
    for name, _ in xattrs:
        if name <= previous or b"\0" in name:
            raise MalformedManifest(f"xattr {name!r} is out of order or not a name")
        previous = name
    if sum(len(name) + len(value) for name, value in xattrs) > MAX_XATTR_BYTES * 4:
        raise MalformedManifest("more xattr bytes on one file than any file system keeps")
