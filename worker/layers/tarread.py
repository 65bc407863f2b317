"""Reading the tar of a layer that somebody else made, member by member, as it streams in.

Known are ustar, what came before it, GNU's and PAX's long names and large numbers, and the xattrs
that container tools write. Sparse files are refused: nobody writes them into layers.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from filesync.manifest import Xattrs
from worker.layers.errors import BadLayer
from worker.layers.member import (
    BLOCK_BYTES,
    DIRECTORY,
    FILE,
    XATTR,
    Member,
    padding,
)
from worker.layers.source import Source

MAX_HEADER_BYTES: Final = 1 << 20
"""Bound on one PAX header or GNU long name; the same as Go's reader has."""
MAX_ID: Final = (1 << 32) - 2
"""The last number would tell chown to leave the owner alone."""

MAX_TIME_NS: Final = (1 << 63) - 1
"""What a manifest can say of a time."""

_SECOND_NS: Final = 1_000_000_000
_MAX_XATTR_BYTES: Final = 64 << 10
_MAX_XATTRS_BYTES: Final = 256 << 10

_PLAIN: Final = (b"\0", b"0", b"7")
_HEADER_ONLY: Final = (b"1", b"2", b"3", b"4", b"5", b"6")
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", b"x", b"g"
_LAYOUT: Final = struct.Struct("100s8s8s8s12s12s8sc100s6s66x8s8s155s12x")
_ZEROS: Final = bytes(BLOCK_BYTES)


class _Header(NamedTuple):
    """The fields of a block, as they stand there."""

    path: bytes
    mode: bytes
    uid: bytes
    gid: bytes
    size: bytes
    mtime: bytes
    checksum: bytes
    kind: bytes
    link: bytes
    magic: bytes
    major: bytes
    minor: bytes
    prefix: bytes


def read_members(source: Source) -> Iterator[Member]:
    """Yield the members of a tar.

    A file's content is next in ``source`` when its member is yielded: read exactly ``size``
    bytes of it, or none, before the next one is asked for.

    Raises:
        BadLayer: it is no tar, ends early, or has what is not known here.
    """
    extra = _Extra()
    while (block := source.read(BLOCK_BYTES)) != _ZEROS:
        if not block:
            return  # many writers end with less than they should
        if len(block) != BLOCK_BYTES:
            raise BadLayer("a layer ends inside a header")
        header = _Header._make(_LAYOUT.unpack(block))
        _check_sum(block, header)
        if header.kind in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL):
            extra.take(header.kind, _body(source, _number(header.size)))
            continue
        member = extra.complete(header)
        extra = _Extra()
        end = source.position + member.size
        yield member
        source.skip(end - source.position + padding(member.size))


def _body(source: Source, size: int) -> bytes:
    if not 0 <= size <= MAX_HEADER_BYTES:
        raise BadLayer(f"a header of {size} bytes is over the limit of {MAX_HEADER_BYTES}")
    body = source.read(size)
    source.skip(padding(size))
    if len(body) != size:
        raise BadLayer("a layer ends inside a header")
    return body


def _check_sum(block: bytes, header: _Header) -> None:
    # The checksum's own field counts as blanks.
    checksum = _number(header.checksum)
    total = _sum(block) - _sum(header.checksum) + 8 * ord(" ")
    if checksum != total:
        # Some writers of old summed signed bytes.
        blank = block[:148] + block[156:]
        if checksum != total - 256 * sum(byte > 127 for byte in blank):
            raise BadLayer("not a tar header: its checksum is wrong")


def _sum(block: bytes) -> int:
    """Return the sum of at most 512 bytes, in a tenth of the time that ``sum`` takes."""
    # The low half of an Adler-32 is one more than the sum, modulo what 256 bytes do not reach.
    half = BLOCK_BYTES // 2
    return (zlib.adler32(block[:half]) & 0xFFFF) + (zlib.adler32(block[half:]) & 0xFFFF) - 2


class _Extra:
    """What headers before a member say of it."""

    def __init__(self) -> None:
        self._long: dict[bytes, bytes] = {}
        self._pax: dict[bytes, bytes] = {}

    def take(self, kind: bytes, body: bytes) -> None:
        """Note a header. Global ones are notes to people in all layers there are."""
        if kind == _PAX:
            self._pax.update(_pax_records(body))
        elif kind != _PAX_GLOBAL:
            self._long[kind] = _text(body)

    def complete(self, header: _Header) -> Member:
        """Return the member that ``header`` begins, with all that is known of it, checked."""
        pax, long = self._pax, self._long
        path = pax.get(b"path") or long.get(_LONG_NAME) or _path(header)
        kind = _kind(header)
        if kind == b"S" or any(key.startswith(b"GNU.sparse") for key in pax):
            raise BadLayer(f"{path!r} is a sparse file, which layers do not have")
        if kind not in _HEADER_ONLY and kind != FILE:
            raise BadLayer(f"{path!r} is of the unknown kind {kind!r}")
        has_device = kind in (b"3", b"4")
        member = Member(
            path,
            kind,
            _number(header.mode) & 0o7777,
            _pax_number(pax, b"uid", header.uid),
            _pax_number(pax, b"gid", header.gid),
            _pax_time(pax) if pax.get(b"mtime") else _number(header.mtime) * _SECOND_NS,
            0 if kind in _HEADER_ONLY else _pax_number(pax, b"size", header.size),
            pax.get(b"linkpath") or long.get(_LONG_LINK) or _text(header.link),
            _number(header.major) if has_device else 0,
            _number(header.minor) if has_device else 0,
            _pax_xattrs(pax),
        )
        check_member(member)
        return member


def _path(header: _Header) -> bytes:
    path = _text(header.path)
    if header.magic == b"ustar\0" and (prefix := _text(header.prefix)):
        return prefix + b"/" + path
    return path


def _kind(header: _Header) -> bytes:
    """Return the kind; before there was one for directories, their names ended in '/'."""
    if header.kind not in _PLAIN:
        return header.kind
    return DIRECTORY if header.kind == b"\0" and _path(header).endswith(b"/") else FILE


def check_member(member: Member) -> None:
    """Refuse what no file can be.

    Raises:
        BadLayer: it says why.
    """
    path = member.path
    if b"\0" in path or b"\0" in member.link:
        raise BadLayer(f"{path!r}: NUL in a name")
    if not 0 <= member.uid <= MAX_ID or not 0 <= member.gid <= MAX_ID:
        raise BadLayer(f"{path!r} is owned by {member.uid}:{member.gid}")
    if member.size < 0 or abs(member.mtime_ns) > MAX_TIME_NS:
        raise BadLayer(f"{path!r} has a size or time that no file has")
    if not 0 <= member.major < 1 << 12 or not 0 <= member.minor < 1 << 20:
        raise BadLayer(f"{path!r} is device {member.major}:{member.minor}")


def check_xattrs(xattrs: Iterable[tuple[bytes, bytes]]) -> Xattrs:
    """Return ``xattrs`` in order.

    Raises:
        BadLayer: no file can have them.
    """
    found = sorted(xattrs)
    for name, value in found:
        if not 0 < len(name) <= 255 or b"\0" in name or len(value) > _MAX_XATTR_BYTES:
            raise BadLayer(f"an xattr that no file system keeps: {name!r}")
    if sum(len(name) + len(value) for name, value in found) > _MAX_XATTRS_BYTES:
        raise BadLayer("more xattr bytes on one file than any file system keeps")
    return tuple(found)


def _pax_records(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(body):
        space = body.find(b" ", at, at + 20)
        length = _digits(body[at:space]) if space > 0 else 0
        end = at + length
        record = body[space + 1 : end]
        if not length or end > len(body) or not record.endswith(b"\n") or b"=" not in record:
            raise BadLayer("a PAX header is broken")
        key, _, value = record[:-1].partition(b"=")
        yield key, value
        at = end


def _pax_number(pax: dict[bytes, bytes], key: bytes, field: bytes) -> int:
    """Return what ``pax`` says, else what the plain header's field does."""
    text = pax.get(key)
    return _digits(text) if text else _number(field)


def _pax_xattrs(pax: dict[bytes, bytes]) -> Xattrs:
    found = [(key[len(XATTR) :], pax[key]) for key in pax if key.startswith(XATTR)]
    return check_xattrs(found) if found else ()


def _pax_time(pax: dict[bytes, bytes]) -> int:
    text = pax[b"mtime"]
    whole, _, fraction = text.removeprefix(b"-").partition(b".")
    # Digits past the ninth are below a nanosecond.
    time_ns = _digits(whole or b"0") * _SECOND_NS + _digits(fraction[:9].ljust(9, b"0"))
    return -time_ns if text.startswith(b"-") else time_ns


def _digits(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise BadLayer(f"{text[:40]!r} is not a number")
    return int(text)


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    """Return a header's number."""
    try:
        return int(field.rstrip(b"\0 "), 8)
    except ValueError:
        return _other_number(field)


def _other_number(field: bytes) -> int:
    """Return a number that is not just octal digits: none, cut short, or in base 256."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=False) & ((1 << (len(field) * 8 - 1)) - 1)
        negative = 1 << (len(field) * 8 - 2)
        return value - (negative << 1) if value & negative else value
    text = field.strip(b" \0").partition(b"\0")[0].strip()
    try:
        return int(text, 8) if text else 0
    except ValueError as exc:
        raise BadLayer(f"{field!r} is not a number in a tar header") from exc
