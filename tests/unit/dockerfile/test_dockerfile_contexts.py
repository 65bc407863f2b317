from collections.abc import Callable

import pytest

from filesync.digest import digest_of
from filesync.errors import LocalError
from filesync.select import Pick, Selector
from solver.dockerfile import MAIN_CONTEXT, Converted, with_contexts
from worker.wire.ops import LocalOp

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
