"""eStargz layers: what is written is a gzipped tar with a table that says where its contents are."""

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filesync.disk.scanning.scan import scan
from filesync.manifest import Manifest, MemoryNodes
from tests.unit.layers.test_layer_law import scratch
from tests.unit.layers.test_layer_make import write_image
from worker.blobs import BlobStore
from worker.layers import BadLayer, LayerForm, Limits, NotALayer, apply_layer, make_layer
from worker.layers.estargz import (
    CHUNK_BYTES,
    FOOTER_BYTES,
    OWN_NAMES,
    EstargzWriter,
    footer,
    toc_member,
    toc_offset,
)
from worker.layers.member import FILE, Member, encode, padding
from worker.layers.toc import Listed, read_toc
from worker.wire.images import TOC_DIGEST, UNCOMPRESSED_SIZE, Compression
from worker.wire.orders import Layer

BIG = os.urandom(CHUNK_BYTES + 1000) + bytes(CHUNK_BYTES)
FORM = LayerForm(Compression.ESTARGZ)


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "d/sub").mkdir(parents=True)
    (root / "big").write_bytes(BIG)
    (root / "d/a").write_text("a")
    (root / "d/empty").touch()
    os.link(root / "d/a", root / "d/sub/same")
    (root / "link").symlink_to("/d/a")
    os.mkfifo(root / "pipe")
    os.setxattr(root / "d/a", b"user.x", b"\xff\0")
    os.utime(root / "d/a", ns=(0, 1_000_000_001))
    return root


def manifest(root: Path) -> Manifest:
    nodes = MemoryNodes()
    return Manifest(scan(root, nodes).tree, nodes)


def made(tree: Path, blobs: BlobStore) -> tuple[Layer, bytes]:
    layer = make_layer(None, manifest(tree), tree, blobs, FORM)
    return layer, blobs.path(layer.digest).read_bytes()


def table(blob: bytes) -> bytes:
    begin = toc_offset(blob[-FOOTER_BYTES:])
    assert begin is not None
    toc = toc_member(blob[begin:])
    assert toc is not None
    return toc


def listing(blob: bytes) -> list[Listed]:
    begin = toc_offset(blob[-FOOTER_BYTES:])
    assert begin is not None
    return read_toc(table(blob), end=begin, limits=Limits())


def test_an_estargz_layer_is_a_gzipped_tar_and_its_descriptor_says_what_is_in_it(
    tree: Path, blobs: BlobStore
) -> None:
    layer, blob = made(tree, blobs)
    tar = gzip.decompress(blob)
    said = dict(layer.annotations)
    assert layer.digest == f"sha256:{hashlib.sha256(blob).hexdigest()}"
    assert layer.diff_id == f"sha256:{hashlib.sha256(tar).hexdigest()}"
    assert layer.media_type == "application/vnd.oci.image.layer.v1.tar+gzip"
    assert said[TOC_DIGEST] == f"sha256:{hashlib.sha256(table(blob)).hexdigest()}"
    assert said[UNCOMPRESSED_SIZE] == str(len(tar))
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        names = archive.getnames()
    assert (names[0], names[-1]) == (".no.prefetch.landmark", "stargz.index.json")
    assert made(tree, blobs)[0] == layer


def test_each_content_is_where_the_table_says(tree: Path, blobs: BlobStore) -> None:
    _, blob = made(tree, blobs)
    found = {}
    for member, chunks in listing(blob):
        assert chunks is not None
        data = b""
        for chunk in chunks:
            piece = zlib.decompressobj(wbits=31).decompress(blob[chunk.begin : chunk.end])
            assert hashlib.sha256(piece).digest() == chunk.sha256
            assert (chunk.at, chunk.size) == (len(data), len(piece))
            data += piece
        found[member.path] = data
    assert found[b"big"] == BIG
    assert (found[b"d/a"], found[b"d/empty"]) == (b"a", b"")


def test_the_table_says_of_each_member_what_the_tar_does(tree: Path, blobs: BlobStore) -> None:
    _, blob = made(tree, blobs)
    by_path = {one.member.path: one.member for one in listing(blob)}
    file = by_path[b"d/a"]
    assert (file.mtime_ns, file.xattrs) == (1_000_000_001, ((b"user.x", b"\xff\0"),))
    assert by_path[b"d/sub/same"].link == b"d/a"
    assert by_path[b"link"].link == b"/d/a"
    assert (by_path[b"pipe"].kind, by_path[b"d/"].kind) == (b"6", b"5")


def test_an_estargz_layer_applies_to_the_same_tree(tree: Path, blobs: BlobStore) -> None:
    layer, _ = made(tree, blobs)
    with scratch() as at, blobs.open(layer.digest) as blob:
        (at / "out").mkdir()
        applied = apply_layer(blob, at / "out", without=OWN_NAMES)
        assert applied.diff_id == layer.diff_id
        assert manifest(at / "out").tree == manifest(tree).tree


@pytest.mark.needs("umoci", "root")
def test_umoci_unpacks_an_estargz_layer_as_the_tar_that_it_is(
    tree: Path, blobs: BlobStore, tmp_path: Path
) -> None:
    layer, _ = made(tree, blobs)
    write_image(blobs, [layer])
    where = tmp_path / "out"
    image = f"{blobs.directory}:test"
    command = ["umoci", "raw", "unpack", "--image", image, str(where)]
    subprocess.run(command, check=True, capture_output=True)
    for name in (".no.prefetch.landmark", "stargz.index.json"):
        (where / name).unlink()
    assert manifest(where).content == manifest(tree).content


@pytest.mark.parametrize("name", ["stargz.index.json", ".prefetch.landmark"])
def test_a_file_with_a_name_of_the_formats_own_is_no_estargz_layer(
    tree: Path, blobs: BlobStore, name: str
) -> None:
    (tree / name).touch()
    with pytest.raises(NotALayer, match="for itself"):
        made(tree, blobs)


def test_a_name_that_is_no_text_is_no_estargz_layer(tree: Path, blobs: BlobStore) -> None:
    (tree / os.fsdecode(b"\xff")).touch()
    with pytest.raises(NotALayer, match="UTF-8"):
        made(tree, blobs)


def test_a_footer_is_an_empty_gzip_member_of_51_bytes() -> None:
    end = footer(0x1234)
    assert len(end) == FOOTER_BYTES
    assert gzip.decompress(end) == b""
    assert toc_offset(end) == 0x1234


@given(st.binary(max_size=60))
def test_any_other_end_is_none_of_estargz(end: bytes) -> None:
    assert toc_offset(end) is None
    changed = bytearray(footer(7))
    changed[: len(end)] = end[:FOOTER_BYTES]
    assert toc_offset(bytes(changed)) in (None, 7)


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"no gzip",
        gzip.compress(b""),
        gzip.compress(encode(Member(b"other", FILE, size=2)) + b"{}" + bytes(padding(2))),
        gzip.compress(encode(Member(b"stargz.index.json", FILE))[:100]),
    ],
    ids=["nothing", "no gzip", "an empty tar", "another file", "half a header"],
)
def test_a_table_that_is_not_there_is_a_bad_layer(packed: bytes) -> None:
    with pytest.raises(BadLayer):
        toc_member(packed)


def test_a_table_over_the_limit_is_none() -> None:
    huge = Member(b"stargz.index.json", FILE, size=1 << 32)
    assert toc_member(gzip.compress(encode(huge))) is None


# --- tables -----------------------------------------------------------------------------------


PATHS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1).map(
    str.encode
)
XATTRS = st.dictionaries(
    st.sampled_from([b"user.a", b"security.capability"]), st.binary(max_size=9)
).map(lambda found: tuple(sorted(found.items())))
NUMBERS = st.integers(0, 1 << 31)


@st.composite
def files(draw: st.DrawFn) -> tuple[Member, bytes]:
    path, mode = draw(PATHS.filter(lambda path: path not in OWN_NAMES)), draw(NUMBERS) & 0o7777
    mtime_ns = draw(st.integers(-(1 << 62), 1 << 62))
    data = draw(st.binary(max_size=40))
    owner = draw(NUMBERS), draw(NUMBERS)
    member = Member(path, FILE, mode, *owner, mtime_ns, len(data), xattrs=draw(XATTRS))
    return member, data


@given(st.lists(files(), max_size=5))
def test_what_is_written_is_what_is_read(written: list[tuple[Member, bytes]]) -> None:
    blob = b"".join(EstargzWriter(6).blocks((member, [data]) for member, data in written))
    landmark, *found = listing(blob)
    assert landmark.member.path == b".no.prefetch.landmark"
    assert [one.member for one in found] == [member for member, _ in written]
    for (_, chunks), (_, data) in zip(found, written, strict=True):
        assert chunks is not None
        assert [chunk.sha256 for chunk in chunks] == (
            [hashlib.sha256(data).digest()] if data else []
        )


@given(st.binary())
def test_any_bytes_are_a_table_or_a_bad_layer(data: bytes) -> None:
    with pytest.raises(BadLayer):
        read_toc(data, end=100, limits=Limits())


DIGEST = f"sha256:{'0' * 64}"
FILE_ENTRY = {"name": "f", "type": "reg", "size": 8, "offset": 9, "digest": DIGEST}


def reading(*entries: dict[str, object], version: int = 1) -> list[Listed]:
    data = json.dumps({"version": version, "entries": entries}).encode()
    return read_toc(data, end=100, limits=Limits(bytes=1000, entries=3))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"offset": 100}, "contents end at 100"),
        ({"offset": -1}, "is none"),
        ({"size": 1 << 60}, "is none"),
        ({"size": 1001}, "over the limit"),
        ({"chunkSize": 9}, "one after the other"),
        ({"chunkSize": 7}, "7 of its 8 bytes"),
        ({"chunkOffset": 1}, "one after the other"),
        ({"type": "socket"}, "unknown kind"),
        ({"type": "chunk"}, "chunk of no file"),
        ({"name": "a\0b"}, "NUL"),
        ({"name": "\udcff"}, "is none|is no name"),
        ({"uid": -1}, "is owned by"),
        ({"uid": (1 << 32) - 1}, "is owned by"),
        ({"modtime": "yesterday"}, "is no time"),
        ({"modtime": "2020-13-01T00:00:00Z"}, "is no time"),
        ({"type": "char", "devMajor": 1 << 12}, "is device"),
        ({"xattrs": {"user.x": "no base64!"}}, "is none"),
        ({"xattrs": {"": ""}}, "no file system keeps"),
        ({"name": "n" * 9000}, "is none"),
    ],
)
def test_an_entry_that_cannot_be_is_a_bad_layer(change: dict[str, object], says: str) -> None:
    assert reading(FILE_ENTRY)[0].member.size == 8
    with pytest.raises(BadLayer, match=says):
        reading(FILE_ENTRY | change)


def test_more_entries_than_the_limit_or_another_version_are_a_bad_layer() -> None:
    with pytest.raises(BadLayer, match="more than 3"):
        reading(*[FILE_ENTRY] * 4)
    with pytest.raises(BadLayer, match="version 2"):
        reading(FILE_ENTRY, version=2)


@pytest.mark.parametrize("digest", ["", "md5:00", "sha256:00"])
def test_a_content_without_a_digest_that_proves_it_cannot_be_read_by_the_table(
    digest: str,
) -> None:
    assert reading(FILE_ENTRY | {"digest": digest})[0].chunks is None
    halves = [FILE_ENTRY | {"chunkSize": 4}, {"name": "f", "type": "chunk", "chunkOffset": 4}]
    assert reading(*halves)[0].chunks is None


def test_a_time_that_go_writes_for_none_is_1970() -> None:
    (one,) = reading(FILE_ENTRY | {"modtime": "0001-01-01T00:00:00Z"})
    assert one.member.mtime_ns == 0
    (one,) = reading(FILE_ENTRY | {"modtime": "1970-01-01T01:00:00.5+01:00"})
    assert one.member.mtime_ns == 500_000_000
