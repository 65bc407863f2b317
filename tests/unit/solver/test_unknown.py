"""What a manager does not know of a tree: how often it is asked, and that it then knows all of it."""

from collections.abc import Mapping
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from filesync.digest import Digest
from filesync.manifest import (
    EMPTY_DIRECTORY,
    Expansion,
    Manifest,
    MemoryNodes,
    grow,
    missing_nodes,
)
from filesync.manifest.pack import accept_pack, pack_nodes, unpack_nodes
from solver.client import unknown
from solver.client.unknown import ASKED_AT_FIRST, Unknown
from tests.unit.made import file

Tree = Mapping[bytes, "Tree"]
"""Directories by name; each has a file that tells it from others."""

names = st.sampled_from([b"a", b"b", b"c", b"d"])
trees: st.SearchStrategy[Tree] = st.recursive(
    st.just({}), lambda inner: st.dictionaries(names, inner, max_size=4), max_leaves=25
)


def manifest(tree: Tree) -> Manifest:
    def expand(at: tuple[bytes, Tree]) -> Expansion[tuple[bytes, Tree]]:
        path, below = at
        inside = [(name, (path + b"/" + name, tree)) for name, tree in below.items()]
        return Expansion(EMPTY_DIRECTORY, [file(b"-", path)], inside)

    nodes = MemoryNodes()
    return Manifest(grow(nodes, (b"", tree), expand), nodes)


def chain(depth: int) -> Tree:
    tree: Tree = {}
    for _ in range(depth):
        tree = {b"below": tree}
    return tree


class Manager:
    """Knows some trees, and counts what it is asked."""

    def __init__(self) -> None:
        self.nodes = MemoryNodes()
        self.questions: list[int] = []
        self.came: list[bytes] = []

    def learn(self, known: Manifest, tree: Digest) -> None:
        for node in list(missing_nodes(known.nodes, tree, self.nodes.__contains__)):
            accept_pack(self.nodes, next(pack_nodes([node])))

    def be_told(self, offered: Manifest) -> None:
        asking = Unknown(offered)
        while trees := asking.question():
            self.questions.append(len(trees))
            asking.answered(tree for tree in trees if tree not in self.nodes)
        for pack in asking.packs():
            self.came += unpack_nodes(pack)
            accept_pack(self.nodes, pack)


@given(trees, st.data(), st.integers(1, 4))
def test_whatever_a_manager_knows_it_then_knows_all_and_nothing_comes_twice(
    tree: Tree, data: st.DataObject, at_first: int
) -> None:
    offered = manifest(tree)
    manager = Manager()
    directories = [offered.tree] + [
        entry.tree for _, entry in offered.walk() if hasattr(entry, "tree")
    ]
    for known in data.draw(st.lists(st.sampled_from(directories))):
        manager.learn(offered, known)
    before = len(manager.nodes)
    with mock.patch.object(unknown, "ASKED_AT_FIRST", at_first):
        manager.be_told(offered)
    assert offered.tree in manager.nodes
    assert len(manager.nodes) - before == len(manager.came)


def test_a_deep_tree_that_is_new_takes_one_question() -> None:
    manager = Manager()
    manager.be_told(manifest(chain(50)))
    assert manager.questions == [51]
    assert len(manager.came) == 51


def test_a_tree_that_is_known_takes_one_question_and_no_nodes() -> None:
    offered = manifest(chain(50))
    manager = Manager()
    manager.learn(offered, offered.tree)
    manager.be_told(offered)
    assert len(manager.questions) == 1
    assert manager.came == []


def test_of_a_tree_that_changed_in_one_place_the_nodes_above_it_come() -> None:
    old = manifest({b"%d" % n: chain(9) for n in range(20)})
    new = manifest({b"%d" % n: chain(9 if n else 10) for n in range(20)})
    manager = Manager()
    manager.learn(old, old.tree)
    manager.be_told(new)
    assert len(manager.questions) == 1
    assert len(manager.came) == 1 + 11


def test_a_large_tree_takes_few_questions_of_which_the_first_is_small() -> None:
    offered = manifest({b"%d" % n: chain(9) for n in range(2000)})
    manager = Manager()
    manager.be_told(offered)
    assert manager.questions[0] == ASKED_AT_FIRST
    assert len(manager.questions) <= 3
    assert offered.tree in manager.nodes


def test_what_nobody_asked_for_is_taken_no_note_of() -> None:
    offered = manifest(chain(2))
    asking = Unknown(offered)
    assert asking.question()
    asking.answered([Digest(b"?" * 32)])
    assert asking.question() == ()
    assert list(asking.packs()) == []
