"""Reading the tar of a layer that somebody else made, member by member, as it streams in.

Known are ustar, what came before it, GNU's and PAX's long names, large numbers and files with holes,
and the xattrs that container tools write.
"""

import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from filesync.manifest import Xattrs
from worker.layers.errors import BadLayer
from worker.layers.fields import digits, number, text_of
from worker.layers.member import (
    BLOCK_BYTES,
    DIRECTORY,
    FILE,
    XATTR,
    Member,
    Pieces,
    padding,
)
from worker.layers.source import Source
from worker.layers.sparse import OLD_KIND, read_pieces

MAX_HEADER_BYTES: Final = 1 << 20
"""Bound on the PAX headers and GNU long names before a member; Go's reader has it for one of them."""
MAX_ID: Final = (1 << 32) - 2
"""The last number would tell chown to leave the owner alone."""

MAX_TIME_NS: Final = (1 << 63) - 1
"""What a manifest can say of a time."""

_SECOND_NS: Final = 1_000_000_000
_MAX_XATTR_BYTES: Final = 64 << 10
_MAX_XATTRS_BYTES: Final = 256 << 10

_PLAIN: Final = (b"\0", b"0", b"7")
_HEADER_ONLY: Final = (b"1", b"2", b"3", b"4", b"5", b"6")
_SPARSE_MAP: Final = b"GNU.sparse.map"
_SPARSE_NUMBERS: Final = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", b"x", b"g"
_LAYOUT: Final = struct.Struct("100s8s8s8s12s12s8sc100s6s66x8s8s155s12x")
_OTHER_COMPRESSIONS: Final = {
    "bzip2": re.compile(rb"BZh[1-9]1AY&SY"),
    "xz": re.compile(rb"\xfd7zXZ\0"),
}
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

    A file's content is next in ``source`` when its member is yielded: read all of it by
    ``sparse.content_of``, or, of one without holes, exactly ``size`` bytes; or nothing at all,
    before the next one is asked for.

    Raises:
        BadLayer: it is no tar, ends early, or has what is not known here.
    """
    extra = _Extra()
    while (block := source.read(BLOCK_BYTES)) != _ZEROS:
        if not block:
            return  # many writers end with less than they should
        if len(block) != BLOCK_BYTES:
            raise _no_header(block, "it ends inside a header")
        header = _Header._make(_LAYOUT.unpack(block))
        try:
            _check_sum(block, header)
        except BadLayer as exc:
            raise _no_header(block, str(exc)) from exc
        if header.kind in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL):
            extra.take(header.kind, _body(source, number(header.size), extra.left_bytes))
            continue
        member, stored = extra.complete(header, block, source)
        extra = _Extra()
        end = source.position + stored
        yield member
        source.skip(end - source.position + padding(stored))


def _no_header(block: bytes, why: str) -> BadLayer:
    for name, begin in _OTHER_COMPRESSIONS.items():
        if begin.match(block):
            return BadLayer(f"it is compressed by {name}; gzip and zstd are what layers may be")
    return BadLayer(why)


def _body(source: Source, size: int, left_bytes: int) -> bytes:
    if not 0 <= size <= left_bytes:
        raise BadLayer(
            f"headers before a member are over the limit of {MAX_HEADER_BYTES} bytes"
        )
    body = source.read(size)
    source.skip(padding(size))
    if len(body) != size:
        raise BadLayer("a layer ends inside a header")
    return body


def _check_sum(block: bytes, header: _Header) -> None:
    # The checksum's own field counts as blanks.
    checksum = number(header.checksum)
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
    """What headers before a member say of it.

    Attributes:
        left_bytes: how much more may be said.
    """

    def __init__(self) -> None:
        self.left_bytes = MAX_HEADER_BYTES
        self._long: dict[bytes, bytes] = {}
        self._pax: dict[bytes, bytes] = {}

    def take(self, kind: bytes, body: bytes) -> None:
        """Note a header. Global ones are notes to people in all layers there are."""
        self.left_bytes -= len(body)
        if kind == _PAX:
            records = list(_pax_records(body))
            self._pax.update(records)
            # The oldest way: one record for each number, all of the same two names.
            if numbers := [value for key, value in records if key in _SPARSE_NUMBERS]:
                self._pax[_SPARSE_MAP] = b",".join(numbers)
        elif kind != _PAX_GLOBAL:
            self._long[kind] = text_of(body)

    def complete(self, header: _Header, block: bytes, source: Source) -> tuple[Member, int]:
        """Return the member that ``header`` begins, with all that is known of it, checked.

        And how many bytes of it are next in the tar, its map of holes passed.
        """
        pax, long = self._pax, self._long
        path = pax.get(b"path") or long.get(_LONG_NAME) or _path(header)
        path = pax.get(b"GNU.sparse.name") or path
        kind = _kind(header)
        size = stored = 0 if kind in _HEADER_ONLY else _pax_number(pax, b"size", header.size)
        pieces = None
        if kind == OLD_KIND or (kind == FILE and pax):
            size, stored, pieces = _with_holes(path, kind, stored, block, pax, source)
            kind = FILE
        if kind not in _HEADER_ONLY and kind != FILE:
            raise BadLayer(f"{path!r} is of the unknown kind {kind!r}")
        has_device = kind in (b"3", b"4")
        member = Member(
            path,
            kind,
            number(header.mode) & 0o7777,
            _pax_number(pax, b"uid", header.uid),
            _pax_number(pax, b"gid", header.gid),
            _time_ns(pax, header),
            size,
            pax.get(b"linkpath") or long.get(_LONG_LINK) or text_of(header.link),
            number(header.major) if has_device else 0,
            number(header.minor) if has_device else 0,
            _pax_xattrs(pax),
            pieces=pieces,
        )
        check_member(member)
        return member, stored


def _with_holes(
    path: bytes,
    kind: bytes,
    stored: int,
    block: bytes,
    pax: Mapping[bytes, bytes],
    source: Source,
) -> tuple[int, int, Pieces | None]:
    """Return a file's size, how much of it is in the tar, and where, if it has holes."""
    try:
        found = read_pieces(kind, block, pax, source)
        if found is None:
            return stored, stored, None
        size, map_bytes, pieces = found
        if sum(length for _, length in pieces) > stored - map_bytes:
            raise BadLayer("a sparse file of more bytes than there are")
    except BadLayer as exc:
        raise BadLayer(f"{path!r}: {exc}") from exc
    return size, stored - map_bytes, pieces


def _path(header: _Header) -> bytes:
    path = text_of(header.path)
    if header.magic == b"ustar\0" and (prefix := text_of(header.prefix)):
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
        length = digits(body[at:space]) if space > 0 else 0
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
    return digits(text) if text else number(field)


def _pax_xattrs(pax: dict[bytes, bytes]) -> Xattrs:
    found = [(key[len(XATTR) :], pax[key]) for key in pax if key.startswith(XATTR)]
    return check_xattrs(found) if found else ()


def _time_ns(pax: dict[bytes, bytes], header: _Header) -> int:
    """Return a time; one that no file system keeps, such as Go's year 1, is 1970's."""
    time_ns = _pax_time(pax) if pax.get(b"mtime") else number(header.mtime) * _SECOND_NS
    return time_ns if abs(time_ns) <= MAX_TIME_NS else 0


def _pax_time(pax: dict[bytes, bytes]) -> int:
    text = pax[b"mtime"]
    whole, _, fraction = text.removeprefix(b"-").partition(b".")
    # Digits past the ninth are below a nanosecond.
    time_ns = digits(whole or b"0") * _SECOND_NS + digits(fraction[:9].ljust(9, b"0"))
    return -time_ns if text.startswith(b"-") else time_ns
