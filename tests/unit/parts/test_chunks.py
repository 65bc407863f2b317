"""Chunks out of ranges of a layer: proved, whatever lies between them, however they come."""

import gzip
import hashlib
import zlib
from collections.abc import Sequence

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from worker.layers.member import FILE, Member
from worker.layers.toc import Chunk
from worker.parts.chunks import BadChunk, ChunkReader, Wanted
from worker.parts.listing import Leaf


def leaf(number: int, size: int) -> Leaf:
    return Leaf(0, number, Member(b"f%d" % number, FILE, size=size))


def chunk(data: bytes, begin: int, end: int, *, at: int = 0, skip: int = 0) -> Chunk:
    return Chunk(begin, end, skip, at, len(data), hashlib.sha256(data).digest())


class Files:
    def __init__(self) -> None:
        self.data: dict[int, bytearray] = {}

    def give(self, one: Leaf, at: int, data: bytes) -> None:
        file = self.data.setdefault(one.number, bytearray(one.member.size))
        file[at : at + len(data)] = data


def packed(data: bytes, kind: str) -> bytes:
    return gzip.compress(data, mtime=0) if kind == "gzip" else zstandard.compress(data)


def read(wanted: Sequence[Wanted], blob: bytes, begin: int, step: int) -> Files:
    files = Files()
    reader = ChunkReader(wanted, begin, files.give)
    for at in range(begin, len(blob), step):
        reader.take(blob[at : at + step])
    reader.finish()
    return files


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
@given(st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=5), st.data())
def test_chunks_come_out_whatever_is_between_them_and_however_bytes_come(
    kind: str, contents: list[bytes], data: st.DataObject
) -> None:
    blob, wanted = bytearray(), []
    for number, content in enumerate(contents):
        blob += packed(b"header", kind) * data.draw(st.integers(0, 2))
        begin = len(blob)
        blob += packed(content, kind)
        end = len(blob) + data.draw(st.integers(0, 3))
        blob += bytes(end - len(blob))
        wanted.append(Wanted(leaf(number, len(content)), chunk(content, begin, end)))
    asked = data.draw(st.lists(st.sampled_from(wanted), min_size=1, unique=True))
    first = min(one.chunk.begin for one in asked)
    files = read(asked, bytes(blob), first, data.draw(st.integers(1, 500)))
    assert {n: bytes(file) for n, file in files.data.items()} == {
        one.leaf.number: contents[one.leaf.number] for one in asked
    }


def test_a_file_of_several_chunks_is_put_together() -> None:
    halves = [b"a" * 5000, b"b" * 300]
    first = packed(halves[0], "gzip")
    blob = first + packed(halves[1], "gzip")
    one = leaf(0, 5300)
    wanted = [
        Wanted(one, chunk(halves[1], len(first), len(blob), at=5000)),
        Wanted(one, chunk(halves[0], 0, len(first))),
    ]
    assert read(wanted, blob, 0, 7).data[0] == b"".join(halves)


def test_several_files_may_be_in_one_stream() -> None:
    blob = packed(b"header" + b"one" + b"gap" + b"two", "gzip")
    wanted = [
        Wanted(leaf(1, 3), chunk(b"two", 0, len(blob), skip=12)),
        Wanted(leaf(0, 3), chunk(b"one", 0, len(blob), skip=6)),
    ]
    assert read(wanted, blob, 0, 1).data == {0: b"one", 1: b"two"}


CONTENT = b"some content " * 200


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
@pytest.mark.parametrize(
    "lie", ["flipped", "cut", "other", "none", "short", "noise", "bomb", "offset"]
)
def test_what_is_not_what_the_table_says_is_refused(kind: str, lie: str) -> None:
    blob = packed(CONTENT, kind)
    begin = 0
    if lie == "flipped":
        blob = blob[:20] + bytes([blob[20] ^ 1]) + blob[21:]
    elif lie == "cut":
        blob = blob[:-12]
    elif lie == "other":
        blob = packed(CONTENT[::-1], kind)
    elif lie == "none":
        blob = b""
    elif lie == "short":
        blob = packed(CONTENT[:-1], kind)
    elif lie == "noise":
        blob = b"noise" * 30
    elif lie == "bomb":
        blob = packed(bytes(64 << 20), kind)
    elif lie == "offset":
        begin = 3
    wanted = [Wanted(leaf(0, len(CONTENT)), chunk(CONTENT, begin, max(len(blob), 1)))]
    with pytest.raises(BadChunk):
        read(wanted, blob, begin, 100)


def test_a_bomb_gives_no_more_than_the_chunk_has() -> None:
    blob = zlib.compress(bytes(256 << 20), wbits=31)
    files = Files()
    one = Wanted(leaf(0, 10), chunk(bytes(10), 0, len(blob)))
    ChunkReader([one], 0, files.give).take(blob)
    assert files.data[0] == bytes(10)
