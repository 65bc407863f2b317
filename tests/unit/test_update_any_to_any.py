"""From any basis to any target: what stands on disk afterwards is the target."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.unit.update_driver import Make, MakeFile, MakeLink, any_trees, check_update

pytestmark = pytest.mark.needs("root")

trees = any_trees(modes=[0o644, 0o755, 0o600, 0o000, 0o4755, 0o2711, 0o1777])


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(trees, trees, st.booleans())
@example([MakeFile("a"), MakeLink("b", "a")], [MakeFile("b"), MakeLink("c", "b")], False)
def test_any_tree_becomes_any_other(
    before: list[Make], after: list[Make], atomic: bool
) -> None:
    check_update(before, after, atomic=atomic)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(trees, trees, st.booleans())
def test_a_tree_and_a_few_changes(
    before: list[Make], changes: list[Make], atomic: bool
) -> None:
    # Changes that come first win, so much of the old tree stays.
    check_update(before, [*changes[:3], *before], atomic=atomic)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(trees)
def test_any_tree_is_made_from_nothing(after: list[Make]) -> None:
    check_update(None, after, atomic=False)
