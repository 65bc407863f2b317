"""Reading the tar of a layer that somebody else made, member by member, as it streams in.

Known are ustar, what came before it, GNU's and PAX's long names and large numbers, and the xattrs
that container tools write. Sparse files are refused: nobody writes them into layers.
"""

from collections.abc import Iterable, Iterator
from typing import Final

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

_PLAIN: Final = frozenset(b"\x0007")
_HEADER_ONLY: Final = frozenset(b"123456")
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", b"x", b"g"


def read_members(source: Source) -> Iterator[Member]:
    """Yield the members of a tar.

    A file's content is next in ``source`` when its member is yielded: read exactly ``size``
    bytes of it, or none, before the next one is asked for.

    Raises:
        BadLayer: it is no tar, ends early, or has what is not known here.
    """
    extra = _Extra()
    while (block := source.read(BLOCK_BYTES)) != bytes(BLOCK_BYTES):
        if not block:
            return  # many writers end with less than they should
        if len(block) != BLOCK_BYTES:
            raise BadLayer("a layer ends inside a header")
        member, size = _parse(block)
        if member.kind in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL):
            extra.take(member.kind, _body(source, size))
            continue
        member = extra.complete(member, size)
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


def _parse(block: bytes) -> tuple[Member, int]:
    """Return the member of a plain header, and its size as that says it."""
    checksum = _number(block[148:156])
    # The checksum's own field counts as blanks.
    total = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if checksum != total:
        # Some writers of old summed signed bytes.
        blank = block[:148] + block[156:]
        if checksum != total - 256 * sum(byte > 127 for byte in blank):
            raise BadLayer("not a tar header: its checksum is wrong")
    path = _text(block[:100])
    if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
        path = prefix + b"/" + path
    kind = block[156:157]
    if kind[0] in _PLAIN:
        kind = DIRECTORY if kind == b"\0" and path.endswith(b"/") else FILE
    has_device = kind in (b"3", b"4")
    member = Member(
        path,
        kind,
        _number(block[100:108]) & 0o7777,
        _number(block[108:116]),
        _number(block[116:124]),
        _number(block[136:148]) * _SECOND_NS,
        0,
        _text(block[157:257]),
        _number(block[329:337]) if has_device else 0,
        _number(block[337:345]) if has_device else 0,
    )
    return member, _number(block[124:136])


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

    def complete(self, member: Member, size: int) -> Member:
        """Return ``member`` with what is known of it, checked."""
        pax = self._pax
        if member.kind == b"S" or any(key.startswith(b"GNU.sparse") for key in pax):
            raise BadLayer(f"{member.path!r} is a sparse file, which layers do not have")
        if member.kind not in b"0123456":
            raise BadLayer(f"{member.path!r} is of the unknown kind {member.kind!r}")
        member = member._replace(
            path=pax.get(b"path") or self._long.get(_LONG_NAME) or member.path,
            link=pax.get(b"linkpath") or self._long.get(_LONG_LINK) or member.link,
            uid=_pax_number(pax, b"uid", member.uid),
            gid=_pax_number(pax, b"gid", member.gid),
            mtime_ns=_pax_time(pax) if pax.get(b"mtime") else member.mtime_ns,
            size=0 if member.kind[0] in _HEADER_ONLY else _pax_number(pax, b"size", size),
            xattrs=check_xattrs(
                (key.removeprefix(XATTR), value)
                for key, value in pax.items()
                if key.startswith(XATTR)
            ),
        )
        check_member(member)
        return member


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


def _pax_number(pax: dict[bytes, bytes], key: bytes, default: int) -> int:
    text = pax.get(key)
    return _digits(text) if text else default


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
    """Return a header's number: octal, or big-endian with the first bit set."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=False) & ((1 << (len(field) * 8 - 1)) - 1)
        negative = 1 << (len(field) * 8 - 2)
        return value - (negative << 1) if value & negative else value
    text = field.strip(b" \0").partition(b"\0")[0].strip()
    try:
        return int(text, 8) if text else 0
    except ValueError as exc:
        raise BadLayer(f"{field!r} is not a number in a tar header") from exc
