import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filesync.digest import Digest, digest_of
from filesync.errors import LocalError
from filesync.manifest import (
    EMPTY_DIRECTORY,
    Directory,
    File,
    Manifest,
    MemoryNodes,
    Special,
    Subdirectory,
    Symlink,
    canonical_links,
    empty_manifest,
    link_groups,
    put,
    subdirectory,
    with_entries,
)
from filesync.manifest.patch import Change, patch

Leaf = File | Symlink | Special
Tree = dict[bytes, "Tree | Leaf"]

names = st.sampled_from([b"a", b"b", b"c", b"\xff", b"d.d"])
files = st.builds(
    lambda mode, mtime, text: File(b"-", mode, 0, 0, mtime, len(text), digest_of(text)),
    st.sampled_from([0o644, 0o755]),
    st.integers(0, 3),
    st.binary(max_size=1),
)


def _linked(group: int) -> File:
    return File(b"-", 0o644, 0, 0, 7, group, digest_of(bytes([group])), b"group%03d" % group)


linked = st.integers(0, 2).map(_linked)
symlinks = st.builds(Symlink, st.just(b"-"), st.just(0), st.just(0), st.just(0), names)
leaves = files | linked | symlinks | st.just(Special(b"-", 0o010644, 0, 0, 0))
trees = st.recursive(
    st.dictionaries(names, leaves, max_size=4),
    lambda below: st.dictionaries(names, leaves | below, max_size=4),
    max_leaves=12,
)


def build(nodes: MemoryNodes, tree: Tree) -> Digest:
    return canonical_links(nodes, _build(nodes, tree))


def _build(nodes: MemoryNodes, tree: Tree) -> Digest:
    entries = [
        subdirectory(nodes, name, _build(nodes, what))
        if isinstance(what, dict)
        else msgspec.structs.replace(what, name=name)
        for name, what in tree.items()
    ]
    header = Directory(0o755, 0, 0, len(entries), (), ())
    return put(nodes, with_entries(header, entries))


def changes(old: Manifest, new: Manifest) -> Change:
    """Return what an overlay would have of ``new`` on top of ``old``: whole link groups."""
    touched = {
        group
        for group, paths in link_groups(new).items()
        if any(old.find(path) != new.find(path) for path in paths)
    }

    def compare(before: Directory | None, after: Directory) -> Change:
        entries: list[Leaf] = []
        children: dict[bytes, Change] = {}
        for entry in after.entries:
            was = before.find(entry.name) if before else None
            if isinstance(entry, Subdirectory):
                low = old.directory(was.tree) if isinstance(was, Subdirectory) else None
                if was != entry or entry.links:
                    children[entry.name] = compare(low, new.directory(entry.tree))
            elif was != entry or (isinstance(entry, File) and entry.link in touched):
                entries.append(entry)
        there = {entry.name for entry in after.entries}
        gone = {entry.name for entry in before.entries} - there if before else set()
        return Change(after, entries=entries, removed=gone, children=children)

    return compare(old.root, new.root)


@given(trees, trees)
def test_patching_the_changes_between_two_trees_gives_the_second(a: Tree, b: Tree) -> None:
    nodes = MemoryNodes()
    old, new = Manifest(build(nodes, a), nodes), Manifest(build(nodes, b), nodes)
    assert patch(nodes, old.tree, changes(old, new)) == new.tree


@given(trees, trees)
def test_an_opaque_change_forgets_the_old_tree(a: Tree, b: Tree) -> None:
    nodes = MemoryNodes()
    old, new = build(nodes, a), Manifest(build(nodes, b), nodes)
    whole = changes(empty_manifest(nodes), new)
    assert patch(nodes, old, _opaque(whole)) == new.tree


def _opaque(change: Change) -> Change:
    return Change(change.header, True, change.entries, change.removed, change.children)


@given(trees)
def test_an_empty_change_keeps_the_digest(tree: Tree) -> None:
    nodes = MemoryNodes()
    old = build(nodes, tree)
    assert patch(nodes, old, Change()) == old


def test_no_base_and_no_change_is_the_empty_tree() -> None:
    nodes = MemoryNodes()
    assert patch(nodes, None, Change()) == empty_manifest(nodes).tree


def test_what_a_change_does_not_speak_of_is_not_read() -> None:
    reads: list[Digest] = []

    class Watched(MemoryNodes):
        def read(self, digest: Digest) -> bytes:
            reads.append(digest)
            return super().read(digest)

    nodes = Watched()
    below = put(nodes, with_entries(EMPTY_DIRECTORY, [_plain(b"deep")]))
    old = put(nodes, with_entries(EMPTY_DIRECTORY, [subdirectory(nodes, b"kept", below)]))
    patch(nodes, old, Change(entries=[_plain(b"new")]))
    assert reads == [old]


def test_removing_a_groups_first_member_names_the_group_again() -> None:
    nodes = MemoryNodes()
    old = build(nodes, {b"a": _linked(1), b"b": _linked(1), b"c": _linked(1)})
    left = patch(nodes, old, Change(removed={b"a"}))
    assert left == _only_entries(nodes, old, {b"b": _linked(1), b"c": _linked(1)})


def test_the_last_member_of_a_group_is_a_file_of_its_own() -> None:
    nodes = MemoryNodes()
    old = build(nodes, {b"a": _linked(1), b"b": _linked(1)})
    left = Manifest(patch(nodes, old, Change(removed={b"a"})), nodes)
    assert link_groups(left) == {}


def test_a_changed_member_leaves_its_old_group() -> None:
    nodes = MemoryNodes()
    old = build(nodes, {name: _linked(1) for name in (b"a", b"b", b"c")})
    a = Manifest(old, nodes).find(b"a")
    assert isinstance(a, File)
    assert a.link
    new = Manifest(patch(nodes, old, Change(entries=[a])), nodes)
    assert list(link_groups(new).values()) == [[b"b", b"c"]]


def test_a_directory_in_the_place_of_a_file_starts_empty() -> None:
    nodes = MemoryNodes()
    old = build(nodes, {b"a": _plain(b"a")})
    new = patch(nodes, old, Change(children={b"a": Change()}))
    assert Manifest(new, nodes).root.find(b"a") == subdirectory(
        nodes, b"a", empty_manifest(nodes).tree
    )


def test_one_name_that_is_two_things_is_refused() -> None:
    change = Change(entries=[_plain(b"a")], children={b"a": Change()})
    with pytest.raises(LocalError):
        patch(MemoryNodes(), None, change)


def _plain(name: bytes) -> File:
    return File(name, 0o644, 0, 0, 0, 1, digest_of(b"x"))


def _only_entries(nodes: MemoryNodes, header_of: Digest, tree: Tree) -> Digest:
    root = Manifest(header_of, nodes).root
    entries = Manifest(build(nodes, tree), nodes).root.entries
    return put(nodes, with_entries(root, entries))
