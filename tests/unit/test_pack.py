"""Packs of directories: what is packed comes out, what is no pack is refused."""

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from filesync.errors import MalformedManifest
from filesync.manifest.pack import (
    MAX_PACK_BYTES,
    pack_directories,
    unpack_directories,
)

names = st.binary(min_size=1, max_size=4).filter(lambda name: b"/" not in name)
paths = st.lists(names, max_size=5).map(b"/".join)


@given(st.lists(st.tuples(paths, st.binary(max_size=20)), max_size=20))
def test_what_is_packed_comes_out(directories: list[tuple[bytes, bytes]]) -> None:
    assert unpack_directories(pack_directories(directories)) == directories


@given(st.binary(max_size=100))
def test_any_bytes_are_directories_or_are_refused(data: bytes) -> None:
    for pack in (data, zstandard.compress(data)):
        try:
            unpack_directories(pack)
        except MalformedManifest:
            continue


def test_a_deep_path_travels_once() -> None:
    deep = b"/".join([b"directory%d" % n for n in range(2000)])
    paths = [deep]
    while paths[-1]:
        paths.append(paths[-1].rpartition(b"/")[0])
    pack = pack_directories([(path, b"node") for path in paths])
    assert len(pack) < 2 * len(deep)
    assert [path for path, _ in unpack_directories(pack)] == paths


def test_few_bytes_cannot_stand_for_endless_paths() -> None:
    items = [(0, b"x" * 1_000_000, b""), *[(1_000_000, b"", b"")] * 1000]
    pack = zstandard.compress(msgspec.msgpack.encode(items))
    assert len(pack) < 10_000
    with pytest.raises(MalformedManifest, match="paths"):
        unpack_directories(pack)
    assert MAX_PACK_BYTES < 1000 * 1_000_000
