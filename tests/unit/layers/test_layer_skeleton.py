"""A skeleton and the contents give the very tar back; a hostile skeleton gives nothing."""

import io
import struct
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from filesync.digest import Digest, digest_of
from filesync.disk.scanning.scan import scan
from filesync.disk.updating.local import LocalTree
from filesync.manifest import Manifest, MemoryNodes
from tests.fuzz.skeletons import written
from tests.unit.layers.layer_trees import Tree, build, trees
from tests.unit.layers.test_layer_law import scratch
from worker.layers import BadSkeleton, apply_layer, tar_blocks
from worker.layers.rebuild import ContentGone, rebuilt_tar
from worker.layers.skeleton import (
    MAGIC,
    MAX_LITERAL_BYTES,
    Content,
    Part,
    Proved,
    SkeletonLimits,
    SkeletonWriter,
    contents_of,
    read_skeleton,
    skeleton_limits_of,
)

CONTENT = digest_of(b"content")
parts = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=700),
        st.builds(
            bytes, st.sampled_from([1, 512, MAX_LITERAL_BYTES, 3 * MAX_LITERAL_BYTES + 1])
        ),
        st.builds(
            Content, st.sampled_from([CONTENT, digest_of(b"b")]), st.integers(1, 1 << 50)
        ),
    ),
    max_size=12,
)
WIDE = SkeletonLimits(tar_bytes=1 << 60)


def read(data: bytes, limits: SkeletonLimits = WIDE) -> list[Part]:
    return list(read_skeleton(io.BytesIO(data), limits=limits))


def joined(these: Iterable[Part]) -> list[Part]:
    """Return parts with literals that touch made one."""
    found: list[Part] = []
    for part in these:
        if found and isinstance(part, bytes) and isinstance(found[-1], bytes):
            found[-1] += part
        else:
            found.append(part)
    return found


def raw(*records: bytes) -> bytes:
    """Return the skeleton that these records make, whatever they say."""
    return zstandard.ZstdCompressor().compress(b"".join(records))


def literal(data: bytes) -> bytes:
    return b"\0" + struct.pack("<I", len(data)) + data


def content(size: int, digest: Digest = CONTENT) -> bytes:
    return b"\1" + struct.pack("<Q", size) + digest


def end(size: int) -> bytes:
    return b"\2" + struct.pack("<Q", size)


@given(parts)
def test_what_is_read_is_what_was_written(these: list[Part]) -> None:
    assert joined(read(written(these))) == joined(these)


@given(parts, st.data())
def test_how_literals_were_handed_in_does_not_show(
    these: list[Part], data: st.DataObject
) -> None:
    pieces: list[Part] = []
    for part in these:
        if isinstance(part, bytes):
            at = data.draw(st.integers(0, len(part)))
            pieces += [part[:at], part[at:]]
        else:
            pieces.append(part)
    assert written(pieces) == written(these)


@given(st.binary(max_size=400) | st.binary(max_size=400).map(lambda data: raw(MAGIC, data)))
def test_any_bytes_are_a_skeleton_or_refused(data: bytes) -> None:
    try:
        found = read(data)
    except BadSkeleton:
        return
    assert joined(read(written(found))) == joined(found)


@given(parts, st.data())
def test_a_skeleton_that_ends_early_or_goes_on_is_refused(
    these: list[Part], data: st.DataObject
) -> None:
    whole = written(these)
    with pytest.raises(BadSkeleton):
        read(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(BadSkeleton):
        read(whole + b"x")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ends early"),
        (b"no zstd data at all", "broken zstd data"),
        (raw(b"filesync layer skeleton 9\n", end(0)), "not a skeleton of this version"),
        (raw(MAGIC, b"\3", end(0)), "unknown kind 3"),
        (raw(MAGIC, literal(b""), end(0)), "a literal of 0 bytes"),
        (raw(MAGIC, literal(bytes(MAX_LITERAL_BYTES + 1)), end(0)), "a literal of 65537 bytes"),
        (raw(MAGIC, content(0), end(0)), "an empty content"),
        (raw(MAGIC, literal(b"abc"), end(4)), "another tar"),
        (raw(MAGIC, literal(b"abc"), end(3), b"\0"), "follows its end"),
        (raw(MAGIC, content(5)), "ends early"),
        (raw(MAGIC, content(1 << 40), end(1 << 40)), "a tar over the limit"),
        (raw(MAGIC, *[content(1)] * 11, end(11)), "more than 10 contents"),
        (raw(MAGIC, *[literal(bytes(60_000))] * 2, end(120_000)), "literals over the limit"),
    ],
)
def test_a_hostile_skeleton_is_refused_and_says_why(data: bytes, reason: str) -> None:
    limits = SkeletonLimits(tar_bytes=1 << 30, literal_bytes=100_000, contents=10)
    with pytest.raises(BadSkeleton, match=reason):
        read(data, limits)


def test_a_skeleton_that_expands_beyond_all_measure_is_refused_before_it_is_read() -> None:
    bomb = raw(MAGIC, *[literal(bytes(MAX_LITERAL_BYTES))] * 20_000)
    assert len(bomb) < 200_000
    limits = skeleton_limits_of(len(bomb))
    taken: list[int] = []
    with pytest.raises(BadSkeleton, match="literals over the limit"):
        taken.extend(map(len, read_skeleton(io.BytesIO(bomb), limits=limits)))
    assert sum(taken) <= limits.literal_bytes


def test_a_content_of_two_sizes_is_refused() -> None:
    other = digest_of(b"other")
    found = contents_of(
        iter([Content(CONTENT, 3), b"x", Content(other, 4), Content(CONTENT, 3)])
    )
    assert found == {CONTENT: 3, other: 4}
    with pytest.raises(BadSkeleton, match="two sizes"):
        contents_of(iter([Content(CONTENT, 3), b"x", Content(CONTENT, 4)]))


# --- whole layers ---------------------------------------------------------------------------------


def noted(tar: bytes, root: Path) -> tuple[bytes, SkeletonWriter]:
    """Apply a tar and return the skeleton that was noted on the way."""
    out = io.BytesIO()
    writer = SkeletonWriter(out.write)
    root.mkdir()
    apply_layer(io.BytesIO(tar), root, skeleton=writer)
    writer.finish()
    return out.getvalue(), writer


def rebuilt(skeleton: bytes, root: Path) -> bytes:
    """Make the tar again from the tree that applying it gave."""
    nodes = MemoryNodes()
    tree = Manifest(scan(root, nodes).tree, nodes)
    return b"".join(rebuilt_tar(read_skeleton(io.BytesIO(skeleton)), [LocalTree(tree, root)]))


@pytest.mark.needs("root")
@given(trees)
def test_our_own_layers_come_back_and_maker_and_taker_note_the_same(tree: Tree) -> None:
    nodes = MemoryNodes()
    with scratch() as at:
        root = build(at / "tree", tree)
        manifest = Manifest(scan(root, nodes).tree, nodes)
        out = io.BytesIO()
        writer = SkeletonWriter(out.write)
        tar = b"".join(tar_blocks(None, manifest, root, skeleton=writer))
        writer.finish()
        again = rebuilt_tar(
            read_skeleton(io.BytesIO(out.getvalue())), [LocalTree(manifest, root)]
        )
        assert b"".join(again) == tar
        assert noted(tar, at / "out")[0] == out.getvalue()


members = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "d/c", "n" * 90, "l" * 200, "ü" * 70]),
        st.binary(max_size=1500) | st.builds(bytes, st.just(2_100_000)),
        st.sampled_from([0, 7, 8**7, 2**31]),
    ),
    max_size=5,
    unique_by=lambda member: member[0],
)


@pytest.mark.needs("root")
@given(members, st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_tars_of_any_dialect_come_back(
    these: list[tuple[str, bytes, int]], dialect: int
) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=dialect) as tar:
        for name, text, uid in these:
            info = tarfile.TarInfo(name)
            info.size, info.uid = len(text), uid
            try:
                tar.addfile(info, io.BytesIO(text))
            except ValueError:  # ustar cannot say it
                continue
    with scratch() as at:
        skeleton, writer = noted(data.getvalue(), at / "out")
        assert rebuilt(skeleton, at / "out") == data.getvalue()
        assert sum(writer.contents.values()) + 512 <= len(data.getvalue())


@pytest.mark.needs("root", "tar")
def test_gnu_tar_with_blocks_after_its_end_comes_back(tmp_path: Path) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo("only")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    whole = data.getvalue() + bytes(5000) + b"what nobody reads"
    skeleton, _ = noted(whole, tmp_path / "out")
    assert rebuilt(skeleton, tmp_path / "out") == whole


def test_a_content_that_the_tree_does_not_have_is_seen_by_who_notes(tmp_path: Path) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for text in (b"first", b"second"):
            info = tarfile.TarInfo("twice")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
    _, writer = noted(data.getvalue(), tmp_path / "out")
    assert writer.contents == {digest_of(b"first"): 5, digest_of(b"second"): 6}
    assert (tmp_path / "out" / "twice").read_bytes() == b"second"


def trees_of(root: Path, *contents: bytes) -> list[LocalTree]:
    """Make a tree of one file for each content."""
    nodes = MemoryNodes()
    made: list[LocalTree] = []
    for number, data in enumerate(contents):
        at = root / str(number)
        at.mkdir()
        (at / "file").write_bytes(data)
        made.append(LocalTree(Manifest(scan(at, nodes).tree, nodes), at))
    return made


@pytest.mark.parametrize("size", [7, 3_000_000])
@pytest.mark.parametrize(
    "rotten", [lambda data: data[:-1], lambda data: data + b"x", lambda data: bytes(len(data))]
)
def test_what_has_rotted_is_not_put_into_the_tar(
    tmp_path: Path, rotten: Callable[[bytes], bytes], size: int
) -> None:
    data = b"x" * size
    (tree,) = trees_of(tmp_path, data)
    part = Content(digest_of(data), size)
    assert b"".join(rebuilt_tar([part], [tree])) == data
    (tree.root / "file").write_bytes(rotten(data))
    with pytest.raises(ContentGone):
        list(rebuilt_tar([part], [tree]))


def test_a_content_is_read_where_it_is_still_right(tmp_path: Path) -> None:
    data = b"content"
    gone, rotten, right = trees_of(tmp_path, data, data, data)
    (gone.root / "file").unlink()
    (rotten.root / "file").write_bytes(b"CONTENT")
    part = Content(digest_of(data), len(data))
    assert b"".join(rebuilt_tar([b"<", part], [gone, rotten, right])) == b"<content"


def test_small_contents_are_noted_where_they_stand_before_they_are_given(
    tmp_path: Path,
) -> None:
    small, large = b"small", bytes(range(256)) * 8192
    trees = trees_of(tmp_path, small, large)
    parts = [Content(digest_of(data), len(data)) for data in (small, large, small)]
    proved: Proved = {}
    pieces = rebuilt_tar([b"<<", *parts], trees, proved=proved)
    assert next(pieces).startswith(b"<<small")
    assert proved[2] == parts[0]
    list(pieces)
    assert proved == {2: parts[0], 2 + len(small) + len(large): parts[2]}
