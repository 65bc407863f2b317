"""Tables of contents of layers in registries, and what is found by them."""

import gzip
import random
import zlib
from typing import Final

import msgspec
import zstandard

from filesync.trees.select import Pick, Selector
from tests.fuzz import mutation
from tests.fuzz.mutation import Mutate
from worker.layers.apply import Limits
from worker.layers.chunked import TocPlace, toc_place, unpacked_toc
from worker.layers.errors import BadLayer
from worker.layers.estargz import FOOTER_BYTES, EstargzWriter, toc_member, toc_offset
from worker.layers.member import CHARACTER, DIRECTORY, FILE, LINK, SYMLINK, Member
from worker.layers.toc import Listed, read_toc
from worker.parts.chunks import BadChunk, ChunkReader, Wanted
from worker.parts.errors import NotInParts
from worker.parts.listing import Leaf
from worker.parts.topdown import TopDown

TABLE: Final = b"t"
ESTARGZ: Final = b"e"
CHUNKED: Final = b"c"
LIMITS: Final = Limits(1 << 30, 1000)
END: Final = 1 << 40
SELECTOR: Final = Selector(
    (Pick("a/file"), Pick("a/l*", wildcard=True), Pick("a/hard"), Pick("b/../c", parents=True))
)
BELOW: Final = (
    Member(b"a/", DIRECTORY, 0o755),
    Member(b"a/file", FILE, 0o644, size=3),
    Member(b"c/", DIRECTORY, 0o700),
    Member(b"l", SYMLINK, 0o777, link=b"/a"),
)


def fuzz(data: bytes) -> None:
    """Take ``data`` as a table, or as the end of a layer that has one."""
    kind, data = data[:1], data[1:]
    try:
        if kind == TABLE:
            _look(read_toc(data, end=END, limits=LIMITS))
        elif kind == ESTARGZ:
            _take_estargz(data)
        elif kind == CHUNKED:
            _take_chunked(data)
    except (BadLayer, BadChunk, NotInParts):
        pass


def _take_estargz(data: bytes) -> None:
    begin = toc_offset(data[-FOOTER_BYTES:])
    end = len(data) - FOOTER_BYTES
    if begin is None or not begin < end:
        return
    toc = toc_member(data[begin:end])
    if toc is not None:
        listed = read_toc(toc, end=begin, limits=LIMITS)
        _look(listed)
        _read_chunks(listed, data)


def _take_chunked(data: bytes) -> None:
    position, _, packed = data.partition(b"\n")
    place = toc_place(position.decode(errors="replace"), END)
    if place is not None:
        assert 0 <= place.begin <= place.end <= END
    _look(read_toc(unpacked_toc(packed, TocPlace(0, 0, 1 << 16)), end=END, limits=LIMITS))


def _look(listed: list[Listed]) -> None:
    assert len(listed) <= LIMITS.entries
    assert sum(one.member.size for one in listed) <= LIMITS.bytes
    for one in listed:
        for chunk in one.chunks or ():
            assert 0 <= chunk.begin < chunk.end <= END
            assert 0 <= chunk.at < chunk.at + chunk.size <= one.member.size
    image = TopDown(SELECTOR, 2)
    for members in ([one.member for one in listed], BELOW):
        image.add(members)
        found = image.found()
        if found is not None:
            assert all(b".." not in path.split(b"/") for path, _ in found.manifest.walk())
            return


def _read_chunks(listed: list[Listed], blob: bytes) -> None:
    for number, (member, chunks) in enumerate(listed[:20]):
        wanted = [Wanted(Leaf(0, number, member), chunk) for chunk in chunks or ()]
        if not wanted:
            continue
        at = min(one.chunk.begin for one in wanted)
        reader = ChunkReader(wanted, at, _give)
        reader.take(blob[at:])
        reader.finish()


def _give(leaf: Leaf, at: int, data: bytes) -> None:
    assert 0 <= at <= at + len(data) <= leaf.member.size


def mutated(data: bytes, rng: random.Random, mutate: Mutate) -> bytes:
    """Return ``data`` with something in its table changed, or in what is around it."""
    kind, data = data[:1], data[1:]
    if kind == TABLE:
        return kind + mutation.mutated(data, rng, mutate, json=True)
    if rng.random() < 0.5:
        return kind + mutate(data)
    begin = toc_offset(data[-FOOTER_BYTES:])
    try:
        if kind == ESTARGZ and begin is not None:
            tar = zlib.decompressobj(wbits=31).decompress(data[begin:-FOOTER_BYTES], 1 << 20)
            toc = mutation.mutated(tar[512:].rstrip(b"\0"), rng, mutate, json=True)
            tar = tar[:124] + b"%011o\0" % len(toc) + tar[136:512] + toc
            return kind + data[:begin] + gzip.compress(tar, mtime=0) + data[-FOOTER_BYTES:]
        if kind == CHUNKED:
            position, _, packed = data.partition(b"\n")
            toc = zstandard.ZstdDecompressor().stream_reader(packed).read(1 << 20)
            return chunked(mutation.mutated(toc, rng, mutate, json=True), position)
    except (zlib.error, zstandard.ZstdError):
        pass
    return kind + mutate(data)


def seeds() -> list[bytes]:
    """Return tables of a small layer, alone and at its end."""
    members = [
        (Member(b"a/", DIRECTORY, 0o755, mtime_ns=5_000_000_001), b""),
        (
            Member(b"a/file", FILE, 0o644, 1, 2, size=5, xattrs=((b"user.a", b"\xff"),)),
            b"hello",
        ),
        (Member(b"a/link", SYMLINK, 0o777, link=b"/a/../a/file"), b""),
        (Member(b"a/hard", LINK, link=b"a/file"), b""),
        (Member(b"b", SYMLINK, 0o777, link=b"c"), b""),
        (Member(b".wh.c", FILE), b""),
        (Member(b"null", CHARACTER, 0o666, major=1, minor=3), b""),
    ]
    blob = b"".join(EstargzWriter(6).blocks((member, [data]) for member, data in members))
    begin = toc_offset(blob[-FOOTER_BYTES:])
    assert begin is not None
    toc = toc_member(blob[begin:-FOOTER_BYTES])
    assert toc is not None
    listed = msgspec.json.decode(toc)
    pieces = [
        {"name": "d", "type": "reg", "size": 9, "offset": 70, "chunkSize": 4},
        {"name": "d", "type": "chunk", "offset": 80, "chunkOffset": 4, "chunkSize": 3},
        {"name": "d", "type": "chunk", "chunkOffset": 7, "chunkSize": 2, "chunkType": "zeros"},
    ]
    named = [dict(one, chunkDigest=f"sha256:{at:064x}") for at, one in enumerate(pieces)]
    more = msgspec.json.encode({"version": 1, "entries": [*listed["entries"], *named]})
    position = b"%d:%d:%d:1" % (begin, 500, len(toc))
    return [TABLE + toc, TABLE + more, ESTARGZ + blob, chunked(more, position)]


def chunked(toc: bytes, position: bytes) -> bytes:
    """Return the input that has a table of zstd:chunked."""
    return CHUNKED + position + b"\n" + zstandard.ZstdCompressor(level=1).compress(toc)
