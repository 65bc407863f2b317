"""Cache keys: what changes a result changes the key, and nothing else does."""

from typing import Any

import msgspec
import pytest

from filesync.errors import PathMissing
from filesync.manifest import MemoryNodes
from filesync.trees.select import Pick, Selector
from solver.graph import Graph, Vertex
from solver.keys import content_key, definition_keys, part_read
from tests.unit.solver.fakes import IMAGE, Listing, digest, plant
from worker.wire.ops import (
    BindMount,
    CacheMount,
    Copy,
    ExecOp,
    FileOp,
    ImageOp,
    LocalOp,
    MakeFile,
    Network,
    Op,
    TmpfsMount,
    selector_of,
)

EXEC = ExecOp(("make", "all"), (("PATH", "/bin"),), "/src", "1:1")
COPY = Copy(1, "/out", "/dest")
LOCAL = LocalOp("context", digest("content"), digest("tree"))

CHANGES: list[tuple[Op, dict[str, Any]]] = [
    (EXEC, {"args": ("make", "test")}),
    (EXEC, {"args": ("make all",)}),
    (EXEC, {"env": (("PATH", "/usr/bin"),)}),
    (EXEC, {"env": ()}),
    (EXEC, {"cwd": "/"}),
    (EXEC, {"user": "2:1"}),
    (EXEC, {"mounts": (BindMount("/m", 1),)}),
    (EXEC, {"mounts": (CacheMount("/m", "id"),)}),
    (EXEC, {"mounts": (TmpfsMount("/m"),)}),
    (EXEC, {"network": Network.NONE}),
    (EXEC, {"files": (("script", "text"),)}),
    (EXEC, {"scratch": True}),
    (EXEC, {"hostname": "other"}),
    (FileOp((COPY,)), {"scratch": True}),
    *[
        (FileOp((COPY,)), {"actions": (msgspec.structs.replace(COPY, **change),)})
        for change in (
            {"input": 2},
            {"source": "/out2"},
            {"dest": "/dest/"},
            {"owner": "1"},
            {"mode": "0600"},
            {"exclude": ("*.o",)},
            {"wildcard": True},
            {"parents": True},
            {"unpack": True},
        )
    ],
    (FileOp((MakeFile("/f", b"1"),)), {"actions": (MakeFile("/f", b"2"),)}),
    (FileOp((MakeFile("/f", b"1"),)), {"actions": (MakeFile("/f", b"1"),) * 2}),
    (LOCAL, {"content": digest("other")}),
    (ImageOp(IMAGE), {"manifest": "sha256:" + "b" * 64}),
]


def definition_key(*vertices: Vertex) -> bytes:
    return definition_keys(Graph(vertices, 0))[-1]


@pytest.mark.parametrize(("op", "change"), CHANGES, ids=lambda value: str(value)[:60])
def test_any_change_of_an_op_changes_both_keys(op: Op, change: dict[str, Any]) -> None:
    changed = msgspec.structs.replace(op, **change)
    assert definition_key(Vertex(op)) != definition_key(Vertex(changed))
    assert content_key(op, []) != content_key(changed, [])


@pytest.mark.parametrize(
    ("op", "change"),
    [
        (LOCAL, {"tree": digest("newer mtimes")}),
        (LOCAL, {"name": "other"}),
        (EXEC, {"proxy_env": (("http_proxy", "here"),)}),
    ],
)
def test_what_cannot_change_a_result_changes_no_key(op: Op, change: dict[str, Any]) -> None:
    changed = msgspec.structs.replace(op, **change)
    assert definition_key(Vertex(op)) == definition_key(Vertex(changed))
    assert content_key(op, []) == content_key(changed, [])


def test_what_is_for_people_or_placement_changes_no_key() -> None:
    named = Vertex(EXEC, (), "RUN make", "build", (("gpu", "yes"),), True)
    assert definition_key(named) == definition_key(Vertex(EXEC))


def test_definition_key_changes_with_any_input_near_or_far_and_with_their_order() -> None:
    def keyed(first: str, *, inputs: tuple[int, ...] = (1, 2)) -> bytes:
        one, two = Vertex(ExecOp((first,))), Vertex(ExecOp(("two",)), (0,))
        return definition_key(one, two, Vertex(ExecOp(("three",))), Vertex(EXEC, inputs))

    keys = [keyed("a"), keyed("b"), keyed("a", inputs=(2, 1)), keyed("a", inputs=(1, 2, 0))]
    assert len(set(keys)) == len(keys)


def test_image_is_the_same_wherever_its_layout_came_from() -> None:
    elsewhere = msgspec.structs.replace(LOCAL, content=digest("another layout"))
    image = Vertex(ImageOp(IMAGE), (0,))
    assert definition_key(Vertex(LOCAL), image) == definition_key(Vertex(elsewhere), image)


def test_definition_and_content_keys_are_never_mixed_up() -> None:
    assert definition_key(Vertex(EXEC)) != content_key(EXEC, [])


def test_content_key_changes_with_any_input_and_with_their_order() -> None:
    one, two = digest("1"), digest("2")
    keys = [content_key(EXEC, parts) for parts in ([], [one], [one, two], [two, one])]
    assert len(set(keys)) == len(keys)


# --- what is read of an input -------------------------------------------------------------------


def read_key(op: Op, index: int, listing: Listing, *, mtime_ns: int = 7) -> bytes:
    tree = plant(MemoryNodes(), listing, mtime_ns=mtime_ns)
    return content_key(op, [part_read(op, index, tree).content])


MOUNTED = ExecOp(("make",), mounts=(BindMount("/src", 1, "/src"),))
TREE = {"src/main.c": "int", "notes": "old"}


@pytest.mark.parametrize("op", [MOUNTED, FileOp((Copy(1, "/src", "/dest"),))])
def test_file_that_is_not_read_does_not_change_the_key(op: Op) -> None:
    key = read_key(op, 1, TREE)
    assert key == read_key(op, 1, TREE | {"notes": "new", "more": "files"})
    assert key == read_key(op, 1, TREE, mtime_ns=99)
    assert key != read_key(op, 1, TREE | {"src/main.c": "long"})
    assert key != read_key(op, 1, TREE | {"src/more.c": ""})


def test_excluded_file_does_not_change_the_key() -> None:
    op = FileOp((Copy(1, "/src", "/dest", exclude=("*.o",)),))
    assert read_key(op, 1, TREE) == read_key(op, 1, TREE | {"src/main.o": "object"})


@pytest.mark.parametrize("op", [MOUNTED, FileOp((COPY,)), ImageOp(IMAGE)])
def test_tree_that_an_op_changes_is_read_whole(op: Op) -> None:
    tree = plant(MemoryNodes(), TREE)
    assert part_read(op, 0, tree) is tree


@pytest.mark.parametrize(
    "op",
    [FileOp((Copy(0, "/a", "/b"),)), ExecOp(("make",), mounts=(BindMount("/m", 0, "/a"),))],
)
def test_tree_that_an_op_changes_is_read_whole_though_a_part_is_named_of_it(op: Op) -> None:
    assert selector_of(op, 0) is None
    assert selector_of(msgspec.structs.replace(op, scratch=True), 0) == Selector((Pick("/a"),))


def test_of_each_input_is_read_what_is_named_of_it_and_nothing_else() -> None:
    copies = (Copy(1, "/a", "/"), MakeFile("/f", b""), Copy(2, "/b", "/"), Copy(1, "/c", "/"))
    mounts = (BindMount("/m", 1, "/a"), TmpfsMount("/t"), BindMount("/n", 2, "/b"))
    assert selector_of(FileOp(copies), 1) == Selector((Pick("/a"), Pick("/c")))
    assert selector_of(FileOp(copies), 2) == Selector((Pick("/b"),))
    assert selector_of(ExecOp(("make",), mounts=mounts), 1) == Selector((Pick("/a"),))
    assert selector_of(ExecOp(("make",), mounts=mounts), 2) == Selector((Pick("/b"),))


def test_path_that_is_not_there_is_an_error_unless_it_is_a_pattern() -> None:
    tree = plant(MemoryNodes(), TREE)
    with pytest.raises(PathMissing, match="out"):
        part_read(FileOp((Copy(1, "/out", "/dest"),)), 1, tree)
    none = FileOp((Copy(1, "/*.rs", "/dest", wildcard=True),))
    assert part_read(none, 1, tree).summary.entries == 0


def test_reading_a_part_adds_nothing_to_the_store() -> None:
    nodes = MemoryNodes()
    tree = plant(nodes, TREE)
    before = len(nodes)
    part_read(MOUNTED, 1, tree)
    assert len(nodes) == before
