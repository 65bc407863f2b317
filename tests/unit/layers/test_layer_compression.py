import gzip
import io
import itertools
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from worker.layers import BadLayer
from worker.layers.make import compress
from worker.layers.source import Pieces, Source, decompressed
from worker.wire.images import Compression

KINDS = [Compression.GZIP, Compression.ZSTD, Compression.NONE]
DATA = b"some text " * 1000
SKIPPED = b"\x53\x2a\x4d\x18\x04\0\0\0skip"


def plain(data: bytes) -> bytes:
    return b"".join(decompressed(io.BytesIO(data)))


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(st.binary(max_size=3000)))
def test_what_is_compressed_is_recognised_and_comes_back(
    kind: Compression, blocks: list[bytes]
) -> None:
    whole = b"plain" + b"".join(blocks)
    assert plain(b"".join(compress([b"plain", *blocks], kind))) == whole


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bytes_compress_to_the_same_bytes(kind: Compression) -> None:
    once = b"".join(compress([DATA] * 300, kind))
    assert once == b"".join(compress([DATA] * 300, kind))


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(DATA[:50]) + gzip.compress(DATA[50:]),
        gzip.compress(DATA) + bytes(600),
        zstandard.compress(DATA[:50]) + SKIPPED + zstandard.compress(DATA[50:]),
        SKIPPED + zstandard.compress(DATA) + SKIPPED,
    ],
    ids=["two-members", "padding", "two-frames", "skipped-frames"],
)
def test_all_parts_of_a_blob_are_read(data: bytes) -> None:
    assert plain(data) == DATA


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(DATA)[:-5],
        gzip.compress(DATA) + b"garbage",
        gzip.compress(DATA)[:20] + b"garbage" * 10,
        zstandard.compress(DATA)[:10] + b"garbage" * 10,
        zstandard.compress(DATA) + b"garbage",
        zstandard.ZstdCompressor(
            compression_params=zstandard.ZstdCompressionParameters(window_log=30)
        )
        .compressobj()
        .compress(DATA)
        + b"\x28\xb5\x2f\xfd\x00\xa8"
        + bytes(20),
    ],
    ids=["gzip-cut", "gzip-tail", "gzip-broken", "zstd-broken", "zstd-tail", "zstd-window"],
)
def test_broken_data_is_a_bad_layer(data: bytes) -> None:
    with pytest.raises(BadLayer):
        plain(data)


@pytest.mark.parametrize("bomb", [gzip.compress, zstandard.compress, bytes])
def test_no_more_than_the_limit_comes_out(bomb: Callable[[bytes], bytes]) -> None:
    data = bomb(bytes(64 << 20))
    source = Source(decompressed(io.BytesIO(data)), max_bytes=4 << 20)
    with pytest.raises(BadLayer, match="limit"):
        source.finish()
    assert source.position <= 4 << 20


def test_a_source_reads_and_skips_across_pieces_and_counts() -> None:
    source = Source(
        decompressed(io.BytesIO(gzip.compress(bytes(3 << 20) + b"end"))), max_bytes=1 << 30
    )
    assert source.read(10) == bytes(10)
    source.skip((3 << 20) - 10)
    assert source.read(100) == b"end"
    assert source.read(1) == b""
    assert source.position == (3 << 20) + 3


@given(st.lists(st.binary(min_size=1, max_size=9)), st.lists(st.integers(1, 12), min_size=1))
def test_a_stream_of_pieces_gives_their_bytes_however_it_is_read(
    pieces: list[bytes], sizes: list[int]
) -> None:
    stream = Pieces(pieces)
    found = []
    for size in itertools.cycle(sizes):
        found.append(stream.read(size))
        assert len(found[-1]) <= size
        if not found[-1]:
            break
    assert b"".join(found) == b"".join(pieces)
    assert stream.read() == b""
