"""Packs of nodes, and manifests as files: what is written is read, and nothing else is."""

from io import BytesIO
from pathlib import Path

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from filesync.errors import MalformedManifest, NodeMissing
from filesync.manifest import Manifest, MemoryNodes, missing_nodes
from filesync.manifest.pack import (
    MAX_PACK_BYTES,
    MAX_PACK_NODES,
    accept_pack,
    pack_directories,
    pack_nodes,
    unpack_directories,
    unpack_nodes,
)
from filesync.sync.manifests.file import _read, manifest_chunks, read_manifest, write_manifest
from tests.unit.test_overlay import Shape, manifest, shapes


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_unpack_inverts_pack(nodes: list[bytes]) -> None:
    assert [one for pack in pack_nodes(nodes) for one in unpack_nodes(pack)] == nodes


paths = st.lists(st.sampled_from([b"a", b"ab", b"a.b"]), max_size=4).map(b"/".join)


@given(st.lists(st.tuples(paths, st.binary(max_size=20)), max_size=20))
def test_unpack_inverts_pack_for_directories(directories: list[tuple[bytes, bytes]]) -> None:
    assert unpack_directories(pack_directories(directories)) == directories


def test_large_nodes_travel_alone() -> None:
    nodes = [bytes(3 << 20), b"small", bytes(3 << 20)]
    packs = list(pack_nodes(nodes))
    assert [len(unpack_nodes(pack)) for pack in packs] == [1, 2]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_pack_or_malformed(data: bytes) -> None:
    for pack in (data, zstandard.ZstdCompressor().compress(data)):
        try:
            accept_pack(MemoryNodes(), pack)
        except (MalformedManifest, NodeMissing):
            pass
        try:
            unpack_directories(pack)
        except MalformedManifest:
            pass


def test_a_pack_that_says_it_is_too_large_is_not_opened() -> None:
    claim = (MAX_PACK_BYTES + 1).to_bytes(8, "little")
    for frame in (b"\xc0\x00" + claim, b"\x80" + bytes([17 << 3]) + bytes([9, 0, 0, 0])):
        with pytest.raises(MalformedManifest, match="claims"):
            unpack_nodes(b"\x28\xb5\x2f\xfd" + frame + bytes(99))


def test_a_pack_of_more_nodes_than_have_room_in_one_is_not_unpacked() -> None:
    nodes = [bytes(8)] * MAX_PACK_NODES
    assert len(unpack_nodes(zstandard.compress(msgspec.msgpack.encode(nodes)))) == len(nodes)
    packed = zstandard.compress(msgspec.msgpack.encode([b""] * (MAX_PACK_NODES + 1)))
    with pytest.raises(MalformedManifest, match="not a pack"):
        unpack_nodes(packed)
    directories = [(0, b"", b"")] * (MAX_PACK_NODES + 1)
    with pytest.raises(MalformedManifest, match="not a pack"):
        unpack_directories(zstandard.compress(msgspec.msgpack.encode(directories)))


def test_a_pack_of_what_is_no_list_of_bytes_is_refused() -> None:
    lies: list[object] = [None, 1, {}, [1], ["text"], [[b"node"]], [b"node", None]]
    for said in lies:
        packed = zstandard.ZstdCompressor().compress(msgspec.msgpack.encode(said))
        with pytest.raises(MalformedManifest):
            unpack_nodes(packed)


@given(shapes)
def test_children_before_parents_is_the_order_in_which_a_tree_is_accepted(shape: Shape) -> None:
    tree = manifest(shape)
    ordered = list(missing_nodes(tree.nodes, tree.tree, lambda _: False))
    nodes = MemoryNodes()
    digests = [one for pack in pack_nodes(ordered) for one in accept_pack(nodes, pack)]
    assert digests[-1] == tree.tree
    assert Manifest(tree.tree, nodes).summary == tree.summary
    if len(ordered) > 1:
        with pytest.raises(NodeMissing):
            accept_pack(MemoryNodes(), next(pack_nodes(ordered[::-1])))


# --- files ----------------------------------------------------------------------------------------


@given(shapes)
def test_reading_a_manifest_takes_back_writing_it(shape: Shape) -> None:
    tree = manifest(shape)
    found = _read(BytesIO(b"".join(manifest_chunks(tree))))
    assert found.tree == tree.tree
    assert list(found.walk()) == list(tree.walk())


@given(shapes, st.data())
def test_a_cut_or_damaged_manifest_is_the_same_tree_or_malformed(
    shape: Shape, data: st.DataObject
) -> None:
    tree = manifest(shape)
    written = bytearray(b"".join(manifest_chunks(tree)))
    at = data.draw(st.integers(0, len(written) - 1))
    with pytest.raises(MalformedManifest):
        _read(BytesIO(written[:at]))
    with pytest.raises(MalformedManifest):
        _read(BytesIO(written + b"\0"))
    written[at] ^= data.draw(st.integers(1, 255))
    try:
        found = _read(BytesIO(written))
    except (MalformedManifest, NodeMissing):
        return
    # A few bits of a compressed frame mean nothing.
    assert found.tree == tree.tree


def test_a_file_that_is_damaged_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m"
    write_manifest(path, manifest({b"a": b"1"}))
    assert read_manifest(path).root.find(b"a")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(MalformedManifest, match="m'"):
        read_manifest(path)
