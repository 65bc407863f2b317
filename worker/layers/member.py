"""Tar headers: one member of a layer, to bytes and back.

Written is what every reader knows: ustar, with a PAX header before it where a value does not fit.
"""

import stat
import struct
from typing import Final, NamedTuple

from filesync.digest import Digest
from filesync.disk.scanning.readfile import is_kept
from filesync.manifest import Directory, File, Special, Symlink, Xattrs
from worker.layers.errors import NotALayer

BLOCK_BYTES: Final = 512
END: Final = bytes(2 * BLOCK_BYTES)
WHITEOUT: Final = b".wh."
OPAQUE: Final = b".wh..wh..opq"
XATTR: Final = b"SCHILY.xattr."

FILE, LINK, SYMLINK, CHARACTER, BLOCK, DIRECTORY, FIFO = (
    b"0",
    b"1",
    b"2",
    b"3",
    b"4",
    b"5",
    b"6",
)
_PAX: Final = b"x"

_LAYOUT: Final = struct.Struct("100s8s8s8s12s12s8sc100s6s2s64x8s8s167x")
"""Name, mode, uid, gid, size, mtime, checksum, kind, link, magic, version, device."""

_MAX_NAME: Final = 100
_MAX_ID: Final = 0o7777777
_MAX_SIZE: Final = 0o77777777777
_SECOND_NS: Final = 1_000_000_000
_SPECIALS: Final = {stat.S_IFCHR: CHARACTER, stat.S_IFBLK: BLOCK, stat.S_IFIFO: FIFO}

_TYPES: Final = {kind: mode for mode, kind in _SPECIALS.items()}


Pieces = tuple[tuple[int, int], ...]
"""Where the bytes of a file with holes stand in it: offsets and sizes, ascending."""


class Member(NamedTuple):
    """One member of a tar.

    Attributes:
        path: its name as it stands there; a directory's may end in '/'.
        kind: the type flag.
        mode: permission bits, without the type.
        link: a symlink's text, or the path of the member that a hard link is.
        content: BLAKE3 of a file's bytes, where it is known.
        pieces: all that the tar has of a file with holes; None for any other. None is written so.
    """

    path: bytes
    kind: bytes
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    link: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: Xattrs = ()
    content: Digest | None = None
    pieces: Pieces | None = None


def directory_member(path: bytes, header: Directory) -> Member:
    """Return the member for a directory; the root's path is empty."""
    return Member(
        (path or b".") + b"/",
        DIRECTORY,
        header.mode,
        header.uid,
        header.gid,
        header.mtime_ns,
        xattrs=header.xattrs,
    )


def leaf_member(path: bytes, entry: File | Symlink | Special) -> Member:
    """Return the member for what is no directory, at ``path``."""
    match entry:
        case File(_, mode, uid, gid, mtime_ns, size, digest, _, xattrs):
            return Member(
                path, FILE, mode, uid, gid, mtime_ns, size, xattrs=xattrs, content=digest
            )
        case Symlink(_, uid, gid, mtime_ns, target, xattrs):
            return Member(path, SYMLINK, 0o777, uid, gid, mtime_ns, 0, target, xattrs=xattrs)
        case Special(_, mode, uid, gid, mtime_ns, major, minor, xattrs):
            kind = _SPECIALS[stat.S_IFMT(mode)]
            mode = stat.S_IMODE(mode)
            return Member(path, kind, mode, uid, gid, mtime_ns, 0, b"", major, minor, xattrs)


def directory_of(member: Member) -> Directory:
    """Return what a directory's member says of it, without the xattrs that are a machine's own."""
    xattrs = _kept(member.xattrs)
    return Directory(member.mode, member.uid, member.gid, member.mtime_ns, xattrs, ())


def leaf_entry(member: Member, name: bytes, content: Digest) -> File | Symlink | Special:
    """Return the entry ``name`` that a member makes, a file's with the content ``content``."""
    _, kind, mode, uid, gid, mtime_ns, size, link, major, minor, xattrs, *_ = member
    xattrs = _kept(xattrs)
    if kind == FILE:
        return File(name, mode, uid, gid, mtime_ns, size, content, xattrs=xattrs)
    if kind == SYMLINK:
        return Symlink(name, uid, gid, mtime_ns, link, xattrs)
    mode |= _TYPES[kind]
    return Special(name, mode, uid, gid, mtime_ns, major, minor, xattrs)


def _kept(xattrs: Xattrs) -> Xattrs:
    return tuple(one for one in xattrs if is_kept(one[0]))


def link_member(path: bytes, entry: File, target: bytes) -> Member:
    """Return the member that makes ``path`` one file with ``target``.

    It says the file's owner, mode and times again: some readers set them.
    """
    return Member(path, LINK, entry.mode, entry.uid, entry.gid, entry.mtime_ns, link=target)


def whiteout_member(path: bytes) -> Member:
    """Return the member that says that what was at ``path`` is gone."""
    directory, slash, name = path.rpartition(b"/")
    return Member(directory + slash + WHITEOUT + name, FILE)


def padding(size: int) -> int:
    """Return how many bytes follow ``size`` bytes of content."""
    return -size % BLOCK_BYTES


def encoded_size(member: Member) -> int:
    """Return the length of ``encode(member)``, content and its padding included."""
    records = _records(member)
    size = BLOCK_BYTES + member.size + padding(member.size)
    if records:
        length = sum(map(len, records))
        size += BLOCK_BYTES + length + padding(length)
    return size


def file_size(path: bytes, entry: File) -> int:
    """Return ``encoded_size(leaf_member(path, entry))``, of a plain file in a sixth of the time."""
    size, seconds, fraction = entry.size, *divmod(entry.mtime_ns, _SECOND_NS)
    is_plain = (
        len(path) <= _MAX_NAME
        and size <= _MAX_SIZE
        and 0 <= seconds <= _MAX_SIZE
        and max(entry.uid, entry.gid) <= _MAX_ID
        and path.isascii()
        and not entry.xattrs
    )
    if not is_plain:
        return encoded_size(leaf_member(path, entry))
    # The time's record, with its own header, is all that a plain header cannot say.
    return BLOCK_BYTES + size + padding(size) + (2 * BLOCK_BYTES if fraction else 0)


def encode(member: Member) -> bytes:
    """Return the header of ``member``, which its content follows.

    Raises:
        NotALayer: a device's number, or an xattr's name, cannot be said.
    """
    header = _header(member)
    records = _records(member)
    if not records:
        return header
    body = b"".join(records)
    name = b"PaxHeaders.0/" + member.path.rstrip(b"/").rpartition(b"/")[2][:80]
    pax = _header(Member(name, _PAX, 0o644, size=len(body)))
    return pax + body + bytes(padding(len(body))) + header


def _records(member: Member) -> list[bytes]:
    """Return the PAX records for what the plain header cannot say."""
    path, link, mtime_ns = member.path, member.link, member.mtime_ns
    found: list[tuple[bytes, bytes]] = []
    if len(path) > _MAX_NAME or not path.isascii():
        found.append((b"path", path))
    if link and (len(link) > _MAX_NAME or not link.isascii()):
        found.append((b"linkpath", link))
    if any(not _is_utf8(value) for _, value in found):
        found.insert(0, (b"hdrcharset", b"BINARY"))
    seconds, fraction = divmod(mtime_ns, _SECOND_NS)
    if fraction or not 0 <= seconds <= _MAX_SIZE:
        found.append((b"mtime", _decimal(mtime_ns)))
    if member.uid > _MAX_ID:
        found.append((b"uid", b"%d" % member.uid))
    if member.gid > _MAX_ID:
        found.append((b"gid", b"%d" % member.gid))
    if member.size > _MAX_SIZE:
        found.append((b"size", b"%d" % member.size))
    for name, value in member.xattrs:
        if b"=" in name:
            raise NotALayer(f"{member.path!r}: a layer cannot have the xattr {name!r}")
        found.append((XATTR + name, value))
    return [_record(key, value) for key, value in found]


def _record(key: bytes, value: bytes) -> bytes:
    """Return ``<length> <key>=<value>`` and a newline; the length is that of all of it."""
    bare = len(key) + len(value) + 3
    length = bare + len(str(bare))
    if len(str(length)) > len(str(bare)):
        length += 1
    return b"%d %b=%b\n" % (length, key, value)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _decimal(time_ns: int) -> bytes:
    seconds, fraction = divmod(abs(time_ns), _SECOND_NS)
    text = f"{seconds}.{fraction:09d}".rstrip("0").rstrip(".")
    return (f"-{text}" if time_ns < 0 else text).encode()


def _header(member: Member) -> bytes:
    if member.major > _MAX_ID or member.minor > _MAX_ID:
        raise NotALayer(f"{member.path!r}: a layer cannot have a device of so high a number")
    seconds = member.mtime_ns // _SECOND_NS
    block = _LAYOUT.pack(
        member.path,
        b"%07o" % member.mode,
        b"%07o" % (member.uid if member.uid <= _MAX_ID else 0),
        b"%07o" % (member.gid if member.gid <= _MAX_ID else 0),
        b"%011o" % (member.size if member.size <= _MAX_SIZE else 0),
        b"%011o" % (seconds if 0 <= seconds <= _MAX_SIZE else 0),
        b" " * 8,
        member.kind,
        member.link,
        b"ustar",
        b"00",
        b"%07o" % member.major,
        b"%07o" % member.minor,
    )
    return b"%b%06o\0 %b" % (block[:148], sum(block), block[156:])
