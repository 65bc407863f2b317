"""From any basis to any target: what stands on disk afterwards is the target."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.unit.update_driver import (
    Make,
    MakeDirectory,
    MakeFifo,
    MakeFile,
    MakeLink,
    MakeSymlink,
    build,
    scanned,
    update,
)

pytestmark = pytest.mark.needs("root")

paths = st.lists(st.sampled_from("ab0"), min_size=1, max_size=3).map("/".join)
contents = st.sampled_from(
    [
        b"",
        b"x",
        b"some text",
        b"y" * 20_000,
        b"z" * 70_000,
        bytes(9000) + b"end" + bytes(90_000),
    ]
)
modes = st.sampled_from([0o644, 0o755, 0o600, 0o000, 0o4755, 0o2711, 0o1777])
times = st.sampled_from([0, 1_000_000_007, -5, 1_700_000_000_123_456_789])
makes = st.one_of(
    st.builds(MakeFile, paths, contents, modes, times),
    st.builds(MakeDirectory, paths, modes, times),
    st.builds(MakeSymlink, paths, st.sampled_from(["a", "../b", "/etc/passwd"]), times),
    st.builds(MakeFifo, paths, modes, times),
    st.builds(MakeLink, paths, paths),
)
trees: st.SearchStrategy[list[Make]] = st.lists(makes, max_size=14)


@contextmanager
def scratch() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="update-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def check(before: list[Make], after: list[Make], *, atomic: bool, local: bool) -> None:
    with scratch() as work:
        root, source = work / "root", work / "source"
        build(root, before)
        build(source, after)
        basis, target = scanned(root), scanned(source)
        staging = work if local else None
        done = update(root, source, basis=basis, target=target, atomic=atomic, staging=staging)
        assert done.stats.not_kept == {}
        assert list(scanned(root).walk()) == list(target.walk())
        assert scanned(root).tree == target.tree
        assert len(list(work.iterdir())) == 2


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(trees, trees, st.booleans(), st.booleans())
@example([MakeFile("a"), MakeLink("b", "a")], [MakeFile("b"), MakeLink("c", "b")], False, False)
def test_any_tree_becomes_any_other(
    before: list[Make], after: list[Make], atomic: bool, staging: bool
) -> None:
    check(before, after, atomic=atomic, local=staging)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(trees, trees, st.booleans())
def test_a_tree_and_a_few_changes(
    before: list[Make], changes: list[Make], atomic: bool
) -> None:
    # Changes that come first win, so much of the old tree stays.
    check(before, [*changes[:3], *before], atomic=atomic, local=False)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(trees)
def test_any_tree_is_made_from_nothing(after: list[Make]) -> None:
    with scratch() as work:
        build(work / "source", after)
        target = scanned(work / "source")
        update(work / "root", work / "source", basis=None, target=target)
        assert scanned(work / "root").tree == target.tree
