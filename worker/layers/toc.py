"""Tables of contents: what a seekable layer says of its members, and where in it each content is.

eStargz and zstd:chunked have the same JSON. A table is believed when its bytes have the digest that
the image's manifest names; what it says is then checked as a tar's headers are, and each content
has to have the digest that the table says.
"""

import binascii
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, NamedTuple

import msgspec

from filesync.decoding import UNDECODABLE
from worker.layers.apply import Limits
from worker.layers.errors import BadLayer, NotALayer
from worker.layers.member import (
    BLOCK,
    CHARACTER,
    DIRECTORY,
    FIFO,
    FILE,
    LINK,
    SYMLINK,
    Member,
)
from worker.layers.tarread import MAX_TIME_NS, check_member, check_xattrs

MAX_TOC_BYTES: Final = 64 << 20
"""Bound on a table as JSON: 200,000 files as they are, and memory for what could be made up."""

_SECOND_NS: Final = 1_000_000_000
_KINDS: Final = {
    "dir": DIRECTORY,
    "reg": FILE,
    "symlink": SYMLINK,
    "hardlink": LINK,
    "char": CHARACTER,
    "block": BLOCK,
    "fifo": FIFO,
}
_NAMES: Final = {kind: name for name, kind in _KINDS.items()}
_CHUNK: Final = "chunk"
_ZEROS: Final = "zeros"
_TIME: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})"
)
_SHA256: Final = re.compile(r"sha256:([0-9a-f]{64})")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_Name = Annotated[str, msgspec.Meta(max_length=8192)]
_Offset = Annotated[int, msgspec.Meta(ge=0, lt=1 << 50)]


class TocEntry(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """One entry, in the words of eStargz's specification."""

    name: _Name
    type: _Name
    size: _Offset = 0
    modtime: _Name = ""
    link_name: _Name = ""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    dev_major: int = 0
    dev_minor: int = 0
    xattrs: dict[str, bytes] | None = None
    digest: _Name = ""
    offset: _Offset = 0
    end_offset: _Offset = 0
    inner_offset: _Offset = 0
    chunk_offset: _Offset = 0
    chunk_size: _Offset = 0
    chunk_digest: _Name = ""
    chunk_type: _Name = ""


class _Toc(msgspec.Struct, frozen=True):
    version: int
    entries: list[TocEntry]


_decoder: Final = msgspec.json.Decoder(_Toc)


class Chunk(NamedTuple):
    """A piece of a file's content, compressed by itself.

    Attributes:
        begin: where it begins in the blob.
        end: where it has ended at the latest; what follows it may be in between.
        skip: bytes to pass over once it is decompressed.
        at: where the piece stands in the file.
        size: its bytes.
        sha256: of the piece.
    """

    begin: int
    end: int
    skip: int
    at: int
    size: int
    sha256: bytes


class Listed(NamedTuple):
    """A member of a layer, and where its content is; None where that cannot be proved."""

    member: Member
    chunks: tuple[Chunk, ...] | None = ()


# --- reading ----------------------------------------------------------------------------------


def read_toc(data: bytes, *, end: int, limits: Limits) -> list[Listed]:
    """Return what a table says; the contents lie before ``end`` in the blob.

    Raises:
        BadLayer: it is none, or says what cannot be.
    """
    if len(data) > MAX_TOC_BYTES:
        raise BadLayer(f"a table of contents of {len(data)} bytes")
    try:
        toc = _decoder.decode(data)
    except (*UNDECODABLE, binascii.Error) as exc:
        raise BadLayer(f"a table of contents that is none: {exc}") from exc
    if toc.version != 1:
        raise BadLayer(f"a table of contents of version {toc.version}; 1 is understood")
    if len(toc.entries) > limits.entries:
        raise BadLayer(f"a table of contents of more than {limits.entries} entries")
    ends = _ends(toc.entries, end)
    listed: list[Listed] = []
    total = 0
    for first, *rest in _files(toc.entries):
        member = _member(first)
        total += member.size
        if total > limits.bytes:
            raise BadLayer(f"a layer is over the limit of {limits.bytes} bytes")
        listed.append(Listed(member, _chunks((first, *rest), ends) if member.size else ()))
    return listed


def _files(entries: Sequence[TocEntry]) -> Iterable[list[TocEntry]]:
    """Yield each entry with those that continue it."""
    file: list[TocEntry] = []
    for entry in entries:
        if entry.type == _CHUNK:
            if not file or entry.name != file[0].name or file[0].type != "reg":
                raise BadLayer(f"{entry.name!r}: a chunk of no file")
            file.append(entry)
            continue
        if file:
            yield file
        file = [entry]
    if file:
        yield file


def _member(entry: TocEntry) -> Member:
    kind = _KINDS.get(entry.type)
    if kind is None:
        raise BadLayer(f"{entry.name!r} is of the unknown kind {entry.type!r}")
    has_device = kind in (CHARACTER, BLOCK)
    member = Member(
        _bytes(entry.name),
        kind,
        entry.mode & 0o7777,
        entry.uid,
        entry.gid,
        _time_ns(entry.modtime),
        entry.size if kind == FILE else 0,
        _bytes(entry.link_name),
        entry.dev_major if has_device else 0,
        entry.dev_minor if has_device else 0,
        check_xattrs((_bytes(name), value) for name, value in (entry.xattrs or {}).items()),
    )
    check_member(member)
    return member


def _ends(entries: Sequence[TocEntry], end: int) -> list[int]:
    """Return where contents begin, in order, and where the last one has ended."""
    begins = {entry.offset for entry in entries if entry.offset}
    if begins and max(begins) >= end:
        raise BadLayer(f"a content at {max(begins)} in a layer whose contents end at {end}")
    return [*sorted(begins), end]


def _chunks(file: Sequence[TocEntry], ends: Sequence[int]) -> tuple[Chunk, ...] | None:
    """Return where the content of a file is, which has some."""
    size = file[0].size
    found: list[Chunk] = []
    is_proved = True
    at = 0
    for entry in file:
        length = entry.chunk_size or size - entry.chunk_offset
        if entry.chunk_offset != at or length <= 0 or at + length > size:
            raise BadLayer(f"{entry.name!r}: its chunks are not one after the other")
        at += length
        if entry.chunk_type == _ZEROS:
            continue
        digest = entry.chunk_digest or (file[0].digest if length == size else "")
        match = _SHA256.fullmatch(digest)
        if match is None:
            is_proved = False
            continue
        end = ends[bisect_right(ends, entry.offset)]
        if entry.offset < file[0].end_offset < end:
            end = file[0].end_offset
        chunk = (entry.offset, end, entry.inner_offset, entry.chunk_offset, length)
        found.append(Chunk(*chunk, bytes.fromhex(match[1])))
    if at != size:
        raise BadLayer(f"{file[0].name!r}: its chunks are {at} of its {size} bytes")
    return tuple(found) if is_proved else None


def _bytes(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as exc:
        raise BadLayer(f"{text!r} is no name") from exc


def _time_ns(text: str) -> int:
    if not text:
        return 0
    match = _TIME.fullmatch(text)
    if match is None:
        raise BadLayer(f"{text[:40]!r} is no time")
    try:
        when = datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00"))
    except ValueError as exc:
        raise BadLayer(f"{text[:40]!r} is no time") from exc
    seconds = (when - _EPOCH) // timedelta(seconds=1)
    time_ns = seconds * _SECOND_NS + int((match[2] or "0").ljust(9, "0"))
    # Go writes the year 1 where it knows of no time.
    return time_ns if abs(time_ns) <= MAX_TIME_NS else 0


# --- writing ----------------------------------------------------------------------------------


def toc_entry(member: Member) -> TocEntry:
    """Return what a table says of ``member``, but for its content.

    Raises:
        NotALayer: a name is no text, and JSON has nothing else.
    """
    return TocEntry(
        _text(member, member.path),
        _NAMES[member.kind],
        member.size,
        _time_text(member.mtime_ns),
        _text(member, member.link),
        member.mode,
        member.uid,
        member.gid,
        member.major,
        member.minor,
        {_text(member, name): value for name, value in member.xattrs} or None,
    )


def chunk_entry(name: str) -> TocEntry:
    """Return the beginning of an entry that continues the file ``name``."""
    return TocEntry(name, _CHUNK)


def write_toc(entries: Sequence[TocEntry]) -> bytes:
    """Return a table; the same entries give the same bytes."""
    return msgspec.json.encode(_Toc(1, list(entries)))


def _text(member: Member, name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as exc:
        raise NotALayer(
            f"{member.path!r}: eStargz cannot say a name that is not UTF-8; use gzip or zstd"
        ) from exc


def _time_text(time_ns: int) -> str:
    seconds, fraction = divmod(time_ns, _SECOND_NS)
    if not seconds and not fraction:
        return ""
    try:
        when = _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return ""
    digits = f".{fraction:09d}".rstrip("0") if fraction else ""
    return f"{when:%Y-%m-%dT%H:%M:%S}{digits}Z"
