from collections.abc import Callable
from typing import Any

import pytest

from filesync.digest import digest_of
from filesync.errors import LocalError
from filesync.trees.select import Pick, Selector
from solver.dockerfile import MAIN_CONTEXT, Converted, with_contexts
from worker.wire.ops import Copy, FileOp, LocalOp

Build = Callable[..., Converted]


def test_context_is_read_only_where_the_build_reads_it(build: Build) -> None:
    converted = build(
        "FROM scratch AS a\nCOPY src/*.c /\nFROM scratch\nCOPY --exclude=*.md docs/ /d/\n"
        "RUN --mount=source=tools,target=/t x\nCOPY --from=a / /\nCOPY docs /again/\nCOPY docs /"
    )
    assert converted.selectors == {
        MAIN_CONTEXT: Selector(
            (
                Pick("/src/*.c", wildcard=True),
                Pick("/docs", exclude=("*.md",)),
                Pick("/tools"),
                Pick("/docs"),
            )
        )
    }


@pytest.mark.parametrize("whole", ["COPY . /", "COPY / /", "RUN --mount=target=/src x"])
def test_context_that_is_read_whole_is_one_pick(build: Build, whole: str) -> None:
    converted = build(f"FROM scratch\nCOPY a /\n{whole}")
    assert converted.selectors == {MAIN_CONTEXT: Selector((Pick("/"),))}


def test_part_of_the_whole_context_is_no_whole_context(build: Build) -> None:
    converted = build("FROM scratch\nCOPY --exclude=node_modules . /")
    assert converted.selectors == {
        MAIN_CONTEXT: Selector((Pick("/", exclude=("node_modules",)),))
    }


def test_image_layout_is_read_where_the_image_is(build: Build) -> None:
    converted = build("FROM alpine\nCOPY --from=alpine a /", contexts={"alpine": "oci-layout"})
    paths = ("index.json", "oci-layout", "blobs/sha256/aa")
    assert converted.selectors == {"alpine": Selector(tuple(Pick(path) for path in paths))}


def test_stage_from_a_directory_is_a_copy_that_steps_can_change(build: Build) -> None:
    converted = build(
        "FROM docs AS d\nRUN a\nFROM d AS e\nRUN b",
        contexts={"docs": "local"},
        place={"d": (("gpu", "true"),)},
    )
    local, taken, first, second = converted.graph.vertices
    assert isinstance(local.op, LocalOp)
    assert taken.op == FileOp((Copy(0, "/", "/"),), scratch=True)
    assert (taken.name, taken.inputs) == ("[d 1/2] FROM docs", (0,))
    assert taken.constraints == (("gpu", "true"),)
    assert (first.inputs, second.inputs) == ((1,), (2,))


def test_what_reads_parts_of_a_stage_from_a_directory_reads_these_of_the_directory(
    build: Build,
) -> None:
    converted = build(
        "FROM docs AS d\nFROM d AS e\nFROM scratch\nCOPY --from=e a /",
        contexts={"docs": "local"},
    )
    assert [v.inputs for v in converted.graph.vertices] == [(), (0,)]
    assert converted.selectors == {"docs": Selector((Pick("/a"),))}


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("FROM docs", ["FROM docs"]),
        ("FROM docs AS d\nENV A=1\nFROM d\nRUN a", ["FROM docs", "RUN /bin/sh"]),
        ("FROM scratch\nENV A=1", ["FROM scratch"]),
        ("FROM scratch AS a\nFROM a", ["FROM scratch"]),
    ],
)
def test_history_tells_of_a_layer_that_no_instruction_made(
    build: Build, text: str, layers: list[str]
) -> None:
    history: Any = build(text, contexts={"docs": "local"}).config["history"]
    told = [entry["created_by"] for entry in history if not entry.get("empty_layer")]
    assert [" ".join(line.split()[:2]) for line in told] == layers


def test_context_that_nothing_reads_is_not_there(build: Build) -> None:
    converted = build("FROM scratch\nRUN a", contexts={"docs": "local"})
    assert converted.selectors == {}


def test_digests_of_contexts_are_put_in_after_the_scan(build: Build) -> None:
    converted = build(
        "FROM scratch\nCOPY a /\nCOPY --from=docs b /", contexts={"docs": "local"}
    )
    digests = {
        name: (digest_of(name.encode()), digest_of(b"tree of " + name.encode()))
        for name in converted.selectors
    }
    graph = with_contexts(converted.graph, digests)
    scanned = {
        v.op.name: (v.op.content, v.op.tree)
        for v in graph.vertices
        if isinstance(v.op, LocalOp)
    }
    assert scanned == digests
    assert [v.inputs for v in graph.vertices] == [v.inputs for v in converted.graph.vertices]
    assert graph.target == converted.graph.target


def test_context_without_digests_is_an_error(build: Build) -> None:
    with pytest.raises(LocalError, match="'context'"):
        with_contexts(build("FROM scratch\nCOPY a /").graph, {})
