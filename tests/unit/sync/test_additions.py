"""What is added to a tree before it is known what else becomes of it."""

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filesync.digest import Digest, digest_of
from filesync.disk.updating import similar
from filesync.manifest import (
    Directory,
    Entry,
    File,
    Manifest,
    MemoryNodes,
    Subdirectory,
    Symlink,
    put,
    with_entries,
)
from filesync.manifest.owner import OTHERS, Writer
from filesync.manifest.tree import subdirectory
from filesync.sync import additions
from filesync.sync.additions import Additions

Tree = dict[str, "Tree | str"]
"""Names, each with a directory or a file's content."""
HEADER = Directory(0o755, 7, 8, 9, (), ())


def build(nodes: MemoryNodes, tree: Tree) -> Digest:
    entries: list[Entry] = []
    for name, what in sorted(tree.items()):
        if isinstance(what, dict):
            entries.append(subdirectory(nodes, name.encode(), build(nodes, what)))
        else:
            entries.append(file(name, what))
    return put(nodes, Directory(0o755, 7, 8, 9, (), tuple(entries)))


def file(name: str, content: str, *, link: bytes = b"") -> File:
    digest = digest_of(content.encode())
    return File(name.encode(), 0o644, 7, 8, 9, len(content), digest, link, ())


def done(manifest: Manifest) -> list[tuple[bytes, Directory]]:
    """Return the directories of a tree, each after those in it."""
    found: list[tuple[bytes, Directory]] = []

    def enter(path: bytes, directory: Directory) -> None:
        for entry in directory.entries:
            if isinstance(entry, Subdirectory):
                below = path + b"/" + entry.name if path else entry.name
                enter(below, manifest.directory(entry.tree))
        found.append((path, directory))

    enter(b"", manifest.root)
    return found


class Adding:
    """Adds directories of one tree to another."""

    def __init__(
        self,
        there: Tree,
        *,
        deletes: bool = False,
        writer: Writer | None = None,
        shut: frozenset[bytes] = frozenset(),
    ) -> None:
        self.nodes = MemoryNodes()
        self.there = Manifest(build(self.nodes, there), self.nodes)
        self.additions = Additions(
            self.there, self.nodes, writer=writer, deletes=deletes, shut=shut
        )

    def add(self, given: Tree, *paths: str) -> Manifest:
        """Add the directories ``paths`` of what is given, at once; all of them without any."""
        manifest = Manifest(build(self.nodes, given), self.nodes)
        wanted = [one for one in done(manifest) if not paths or one[0].decode() in paths]
        return self.additions.add(wanted)


def names(manifest: Manifest) -> list[str]:
    return [path.decode() for path, _ in manifest.walk()]


def test_a_new_directory_is_added_as_it_is() -> None:
    adding = Adding({"old": {"f": "1"}})
    given: Tree = {"new": {"d": {"f": "2"}, "g": "3"}}
    top = adding.add(given)
    assert names(top) == ["new", "new/d", "new/d/f", "new/g", "old", "old/f"]
    expected = Manifest(build(adding.nodes, given), adding.nodes)
    assert top.find(b"new") == expected.find(b"new")
    assert top.find(b"old") == adding.there.find(b"old")


def test_one_that_is_not_done_is_private_until_it_is() -> None:
    adding = Adding({})
    given: Tree = {"new": {"d": {"f": "2"}, "g": "3"}}
    top = adding.add(given, "new/d")
    assert names(top) == ["new", "new/d", "new/d/f"]
    above = top.find_directory(b"new")
    assert above is not None
    assert (above.mode, above.mtime_ns) == (0o700, 0)
    expected = Manifest(build(adding.nodes, given), adding.nodes)
    assert adding.add(given, "new").find(b"new") == expected.find(b"new")


def test_a_new_file_joins_those_of_its_directory_whose_times_stay() -> None:
    adding = Adding({"d": {"f": "1"}})
    top = adding.add({"d": {"f": "1", "g": "2"}})
    assert names(top) == ["d", "d/f", "d/g"]
    directory = top.find_directory(b"d")
    assert directory is not None
    assert directory.header == HEADER


@pytest.mark.parametrize(
    "given",
    [
        {"new": {"f": "known"}},
        {"d": {"f": "1", "g": "known"}},
        {"d": {"f": "2", "g": "3"}},  # g may be an edit of what f was
        {"d": {"f": {"g": "2"}}},
        {"new": {}},
        {"other": "2"},
    ],
    ids=str,
)
def test_what_may_come_of_what_is_there_is_left_for_later(given: Tree) -> None:
    adding = Adding({"d": {"f": "1"}, "e": "known"})
    assert adding.add(given).tree == adding.there.tree


@pytest.mark.parametrize("deletes", [False, True])
def test_a_namesake_of_what_may_go_is_left_for_later(deletes: bool) -> None:
    adding = Adding({"v1": {"lib.c": "1"}}, deletes=deletes)
    top = adding.add({"v1": {"lib.c": "1"}, "v2": {"lib.c": "2"}, "v3": {"other.c": "3"}})
    assert (top.find(b"v2") is None) is deletes
    assert top.find(b"v3/other.c") is not None


def test_so_is_what_comes_to_a_directory_from_which_a_file_goes() -> None:
    adding = Adding({"d": {"log.1": "1"}}, deletes=True)
    assert adding.add({"d": {"log.2": "2"}}).tree == adding.there.tree


def test_so_are_names_of_one_file() -> None:
    adding = Adding({})
    directory = Directory(0o755, 7, 8, 9, (), (file("f", "1", link=b"12345678"),))
    assert adding.additions.add([(b"d", directory)]).tree == adding.there.tree


def test_nothing_is_added_where_nobody_knows_what_is_there() -> None:
    adding = Adding({}, shut=frozenset({b"shut"}))
    top = adding.add({"shut": {"d": {"f": "1"}}, "open": {"f": "2"}})
    assert names(top) == ["open", "open/f"]


def test_a_link_does_not_lead_to_where_something_is_added() -> None:
    adding = Adding({})
    link = Symlink(b"d", 0, 0, 0, b"/elsewhere", ())
    there = Manifest(put(adding.nodes, Directory(0o755, 0, 0, 0, (), (link,))), adding.nodes)
    adding.additions = Additions(there, adding.nodes, writer=None, deletes=False)
    assert adding.add({"d": {"e": {"f": "1"}}}, "d/e").tree == there.tree


def test_what_is_added_is_the_writers() -> None:
    adding = Adding({}, writer=Writer(1000, frozenset({8})))
    top = adding.add({"d": {"f": "1"}}, "d")
    entry = top.find(b"d/f")
    directory = top.find_directory(b"d")
    assert isinstance(entry, File)
    assert directory is not None
    assert (entry.uid, entry.gid, directory.uid, directory.gid) == (1000, 8, 1000, 8)
    above = adding.add({"a": {"d": {"f": "2"}}}, "a/d").find_directory(b"a")
    assert above is not None
    assert (above.uid, above.gid) == (1000, OTHERS)


def test_to_a_tree_of_too_many_names_nothing_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(additions, "MOST_NAMES", 1)
    adding = Adding({"a": "1", "b": "2"})
    assert adding.add({"d": {"f": "3"}}).tree == adding.there.tree


def test_to_a_tree_with_too_many_names_of_one_file_nothing_is_added(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(additions, "MOST_LINKS", 1)
    adding = Adding({})
    names = [file(name, "1", link=b"12345678") for name in ("a", "b")]
    there = Manifest(put(adding.nodes, with_entries(HEADER, names)), adding.nodes)
    adding.additions = Additions(there, adding.nodes, writer=None, deletes=False)
    assert adding.add({"d": {"f": "3"}}).tree == there.tree


def test_what_lies_too_deep_is_left_for_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(additions, "MOST_DEEP", 2)
    top = Adding({}).add({"a": {"b": {"c": {"f": "1"}, "f": "2"}}})
    assert names(top) == ["a", "a/b", "a/b/f"]


def test_nodes_of_what_was_there_in_between_do_not_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(additions, "MADE_BYTES", 10_000)
    adding = Adding({f"old{number}": {"f": "1"} for number in range(100)})
    given: Tree = {f"new{number}": {"f": f"f{number}"} for number in range(50)}
    before = len(adding.nodes)
    top = [adding.add(given, name) for name in given][-1]
    made = adding.additions.nodes.upper
    assert isinstance(made, MemoryNodes)
    assert sum(len(made.read(tree)) for tree in made) < 50_000  # the root's alone has 10,000
    kept = adding.additions.kept(top)
    assert kept.nodes is adding.nodes
    assert kept.tree == top.tree
    assert len(list(kept.walk())) == 300
    assert len(adding.nodes) <= before + 2 * 50 + 1


NAMES = st.sampled_from("abcd")
TREES = st.recursive(
    st.sampled_from(["", *"12345678"]),
    lambda inner: st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
).map(lambda one: one if isinstance(one, dict) else {"a": one})


def contents(manifest: Manifest) -> Iterator[tuple[bytes, Digest]]:
    for path, entry in manifest.walk():
        if isinstance(entry, File):
            yield path, entry.digest


@given(TREES, TREES, st.booleans(), st.integers(1, 5))
def test_all_that_was_there_stays_and_nothing_comes_that_is_not_given(
    there: Tree, given: Tree, deletes: bool, batch: int
) -> None:
    adding = Adding(there, deletes=deletes)
    source = Manifest(build(adding.nodes, given), adding.nodes)
    directories = done(source)
    top = adding.there
    for at in range(0, len(directories), batch):
        top = adding.additions.add(directories[at : at + batch])
    was, now = dict(contents(adding.there)), dict(contents(top))
    added = {path: digest for path, digest in now.items() if path not in was}
    assert now == was | added
    assert added.items() <= dict(contents(source)).items()
    assert all(now[path] not in was.values() or _is_empty(source, path) for path in added)
    for path, entry in adding.there.walk():
        if isinstance(entry, Subdirectory):
            assert _header(top, path) == _header(adding.there, path)


def _is_empty(manifest: Manifest, path: bytes) -> bool:
    entry = manifest.find(path)
    return isinstance(entry, File) and not entry.size


def _header(manifest: Manifest, path: bytes) -> Directory | None:
    directory = manifest.find_directory(path)
    return None if directory is None else directory.header


def test_what_is_added_piece_by_piece_is_what_is_added_at_once() -> None:
    given: Tree = {"a": {"b": {"c": {"f": "1"}}, "d": {"g": "2"}}, "e": {"h": "3"}}

    def top(batches: Iterable[list[str]]) -> Digest:
        adding = Adding({"x": "0"})
        return [adding.add(given, *batch).tree for batch in batches][-1]

    paths = ["a/b/c", "a/b", "a/d", "a", "e"]
    assert top([[path] for path in paths]) == top([paths])


LARGE = 1000
THERE: Tree = {
    "d": {"kept": "k" * LARGE, "dump-monday": "d" * (LARGE + 1), "small-1": "s"},
    "e": {"disk": "e" * (LARGE // 2)},
}


@pytest.mark.parametrize(
    ("path", "size", "may"),
    [
        ("d/new", LARGE + 5, True),
        ("new", LARGE + 5, True),
        ("n/o/new", LARGE + 5, True),
        ("d/kept", LARGE + 5, False),
        ("d/kept/new", LARGE + 5, False),
        ("d/new", LARGE, False),
        ("d/dump-tuesday", LARGE + 5, False),
        ("dump-tuesday", LARGE + 5, True),
        ("d/small-2", LARGE + 5, True),
        ("d/disk", LARGE + 5, False),
        ("d/disk", 5 * LARGE, True),
        ("shut/new", LARGE + 5, False),
    ],
)
def test_a_large_file_may_come_if_nothing_that_is_there_may_become_it(
    path: str, size: int, may: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(additions, "EARLY_BYTES", LARGE)
    adding = Adding(THERE, shut=frozenset((b"shut",)))
    assert adding.additions.may_come(path.encode(), size) is may


@pytest.mark.parametrize("name", ["one", "other"])
def test_a_namesake_of_a_large_one_waits_though_there_are_more_than_can_be_noted(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(additions, "EARLY_BYTES", LARGE)
    monkeypatch.setattr(similar, "MAX_NOTED", 1)
    adding = Adding({"d": {"one": "1" * LARGE, "other": "2" * LARGE}})
    assert adding.additions.may_come(b"e/new", LARGE + 5)
    assert not adding.additions.may_come(f"e/{name}".encode(), LARGE + 5)
