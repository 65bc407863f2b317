"""Whose trees are: as an ordinary user is to write them, and as he leaves what is there."""

from typing import NamedTuple, Union

from hypothesis import given
from hypothesis import strategies as st

from filesync.digest import digest_of
from filesync.manifest import (
    Directory,
    Entry,
    File,
    Manifest,
    MemoryNodes,
    Special,
    Symlink,
    put,
    subdirectory,
)
from filesync.manifest.owner import (
    OTHERS,
    Writer,
    as_left,
    as_written_by,
    owned_by,
    seem_others,
)

WRITER = Writer(1, frozenset([10, 11]))
ids = st.sampled_from([1, 2])
groups = st.sampled_from([10, 11, 12, 13])
names = st.sampled_from([b"a", b"b", b"c"])


class Leaf(NamedTuple):
    kind: str
    uid: int
    gid: int


class Shape(NamedTuple):
    """A directory."""

    uid: int
    gid: int
    below: dict[bytes, Union[Leaf, "Shape"]]


leaves = st.builds(Leaf, st.sampled_from("fls"), ids, groups)
shapes: st.SearchStrategy[Shape] = st.recursive(
    st.builds(Shape, ids, groups, st.dictionaries(names, leaves)),
    lambda shape: st.builds(Shape, ids, groups, st.dictionaries(names, leaves | shape)),
)


def tree_of(shape: Shape, nodes: MemoryNodes) -> Manifest:
    """Return the tree of a shape."""
    uid, gid, below = shape
    entries: list[Entry] = []
    for name, one in sorted(below.items()):
        if isinstance(one, Shape):
            entries.append(subdirectory(nodes, name, tree_of(one, nodes).tree))
            continue
        kind, user, group = one
        if kind == "f":
            entries.append(File(name, 0o644, user, group, 5, 1, digest_of(name)))
        elif kind == "l":
            entries.append(Symlink(name, user, group, 5, b"to"))
        else:
            entries.append(Special(name, 0o010644, user, group, 5))
    return Manifest(put(nodes, Directory(0o755, uid, gid, 5, (), tuple(entries))), nodes)


def owners(manifest: Manifest) -> dict[bytes, tuple[str, int, int]]:
    """Return the kind, the user and the group of all that is in a tree, by path."""
    found = {b"": ("Directory", manifest.root.uid, manifest.root.gid)}
    for path, entry in manifest.walk():
        if not isinstance(entry, File | Symlink | Special):
            header = manifest.directory(entry.tree)
            found[path] = ("Directory", header.uid, header.gid)
        else:
            found[path] = (type(entry).__name__, entry.uid, entry.gid)
    return found


@given(shapes)
def test_what_a_user_writes_is_his_and_of_his_groups_or_of_others(shape: Shape) -> None:
    nodes = MemoryNodes()
    given_ = tree_of(shape, nodes)
    written = as_written_by(WRITER, given_, nodes)
    assert owners(written) == {
        path: (kind, 1, gid if gid in WRITER.groups else OTHERS)
        for path, (kind, _, gid) in owners(given_).items()
    }
    assert owned_by(written, nodes, 0, 0) == owned_by(given_, nodes, 0, 0)  # nothing else


@given(shapes, st.sampled_from([10, 14]))
def test_what_is_of_others_can_be_of_one_group_instead(shape: Shape, group: int) -> None:
    nodes = MemoryNodes()
    written = as_written_by(WRITER, tree_of(shape, nodes), nodes)
    assert owners(as_written_by(WRITER, written, nodes, others=group)) == {
        path: (kind, 1, group if gid == OTHERS else gid)
        for path, (kind, _, gid) in owners(written).items()
    }


@given(shapes)
def test_a_tree_with_anything_of_others_is_known_for_one(shape: Shape) -> None:
    nodes = MemoryNodes()
    written = as_written_by(WRITER, tree_of(shape, nodes), nodes)
    found = any(gid == OTHERS for _, _, gid in owners(written).values())
    assert seem_others(written) == found


@given(shapes)
def test_what_is_his_already_is_the_same_tree(shape: Shape) -> None:
    nodes = MemoryNodes()
    his = owned_by(tree_of(shape, nodes), nodes, 1, 11)
    assert as_written_by(WRITER, his, nodes) == his


def regrouped(shape: Shape, group: int) -> Shape:
    """Return a shape of another user's, with ``group`` in place of what the writer is not in."""

    def known(gid: int) -> int:
        return gid if gid in WRITER.groups else group

    _, gid, below = shape
    return Shape(
        2,
        known(gid),
        {
            name: Leaf(one.kind, 2, known(one.gid))
            if isinstance(one, Leaf)
            else regrouped(one, group)
            for name, one in below.items()
        },
    )


@given(shapes, st.sampled_from([10, 12]))
def test_a_copy_is_as_it_was_given_whatever_group_files_of_others_got(
    shape: Shape, group: int
) -> None:
    nodes = MemoryNodes()
    top = as_written_by(WRITER, tree_of(shape, nodes), nodes)
    assert as_left(tree_of(regrouped(shape, group), nodes), top, nodes) == top


@given(shapes, shapes)
def test_only_what_both_have_is_seen_as_it_is_given(there: Shape, given_: Shape) -> None:
    nodes = MemoryNodes()
    basis, top = (tree_of(shape, nodes) for shape in (there, given_))
    top = as_written_by(WRITER, top, nodes)
    if basis == top:
        return
    wanted, has = owners(top), owners(basis)
    expected = {}
    for path, (kind, uid, gid) in has.items():
        expected[path] = (kind, uid, gid)
        if path in wanted and (kind == "Directory") == (wanted[path][0] == "Directory"):
            left = OTHERS if wanted[path][2] == OTHERS else gid
            expected[path] = (kind, wanted[path][1], left)
    assert owners(as_left(basis, top, nodes)) == expected


def test_the_one_name_that_is_given_may_be_called_otherwise_there() -> None:
    nodes = MemoryNodes()
    basis = tree_of(Shape(1, 10, {b"b": Leaf("f", 2, 11)}), nodes)
    top = as_written_by(WRITER, tree_of(Shape(1, 10, {b"a": Leaf("f", 2, 12)}), nodes), nodes)
    assert owners(as_left(basis, top, nodes))[b"b"] == ("File", 2, 11)
    assert owners(as_left(basis, top, nodes, rename=b"b"))[b"b"] == ("File", 1, OTHERS)
