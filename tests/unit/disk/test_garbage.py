"""Which things a policy takes: order, bounds, and what stands in the way."""

import shutil
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from worker.commands import _policies
from worker.garbage.choice import (
    Item,
    Key,
    choose,
    default_policy,
    goal_bytes,
    may_remove,
    reasons,
)
from worker.wire.disk import Kind, PrunePolicy

NOW = 1000.0


def item(
    id: str,
    used_s: float,
    *needs: Item,
    size: int = 10,
    kind: Kind = Kind.RESULT,
    held: str = "",
) -> Item:
    return Item(Key(kind, id), size, used_s, tuple(need.key for need in needs), held)


def removed(policy: PrunePolicy, *items: Item, free_bytes: int = 0) -> list[str]:
    plan = choose(items, policy, now_s=NOW, free_bytes=free_bytes)
    return [one.key.id for one in plan.remove]


def kept(policy: PrunePolicy, *items: Item) -> dict[str, str]:
    plan = choose(items, policy, now_s=NOW, free_bytes=0)
    return {one.key.id: why for one, why in plan.kept}


def test_least_recently_used_goes_first_until_the_bound_is_kept() -> None:
    items = [item("new", 30), item("old", 10), item("middle", 20)]
    assert removed(PrunePolicy(max_used_bytes=20), *items) == ["old"]
    assert removed(PrunePolicy(max_used_bytes=19), *items) == ["old", "middle"]
    assert removed(PrunePolicy(max_used_bytes=30), *items) == []
    assert removed(PrunePolicy(), *items) == ["old", "middle", "new"]


def test_children_go_before_the_parents_they_stand_on() -> None:
    base = item("base", 1)
    middle = item("middle", 2, base)
    top = item("top", 3, middle)
    assert removed(PrunePolicy(), base, middle, top) == ["top", "middle", "base"]


def test_a_parent_was_used_whenever_its_child_was() -> None:
    base = item("base", 1)
    child = item("child", 900, base)
    other = item("other", 500)
    assert removed(PrunePolicy(unused_s=200), base, child, other) == ["other"]
    assert removed(PrunePolicy(max_used_bytes=20), base, child, other) == ["other"]
    assert removed(PrunePolicy(max_used_bytes=10), base, child, other) == ["other", "child"]


def test_what_is_held_stays_with_all_that_it_stands_on_and_says_why() -> None:
    base = item("base", 1)
    held = item("held", 2, base, held="a build holds it")
    sibling = item("sibling", 3, base)
    assert removed(PrunePolicy(), base, held, sibling) == ["sibling"]
    assert kept(PrunePolicy(), base, held, sibling) == {
        "held": "a build holds it",
        "base": "a result needs it: a build holds it",
    }


def test_a_kind_goes_alone_and_only_where_nothing_else_needs_it() -> None:
    blob = item("blob", 1, kind=Kind.BLOB)
    loose = item("loose", 5, kind=Kind.BLOB)
    result = item("result", 2, blob)
    policy = PrunePolicy(kinds=(Kind.BLOB,))
    assert removed(policy, blob, loose, result) == ["loose"]
    assert kept(policy, blob, loose, result) == {"blob": "a result needs it"}
    assert removed(PrunePolicy(), blob, loose, result) == ["result", "blob", "loose"]


def test_what_was_used_lately_is_not_said_to_be_in_the_way() -> None:
    assert kept(PrunePolicy(unused_s=100), item("new", NOW - 99)) == {}


def test_the_bounds_are_those_of_buildkit() -> None:
    def goal(
        *,
        free: int = 0,
        reserved_bytes: int | None = None,
        max_used_bytes: int | None = None,
        min_free_bytes: int | None = None,
    ) -> int | None:
        bounds = (reserved_bytes, max_used_bytes, min_free_bytes)
        return goal_bytes(PrunePolicy((), 0.0, *bounds), used=100, free_bytes=free)

    assert goal() is None
    assert goal(reserved_bytes=30) == 30
    assert goal(max_used_bytes=60) == 60
    assert goal(reserved_bytes=70, max_used_bytes=60) == 70
    assert goal(min_free_bytes=50, free=20) == 70
    assert goal(min_free_bytes=50, free=80) == 100
    assert goal(min_free_bytes=500, free=80, reserved_bytes=40) == 40
    assert goal(min_free_bytes=50, free=20, max_used_bytes=60) == 60


def test_what_could_go_is_what_an_unbounded_prune_removes() -> None:
    base = item("base", 1)
    held = item("held", 2, base, held="it is being read")
    free = item("free", 3)
    assert reasons([base, held, free]) == {
        base.key: "a result needs it: it is being read",
        held.key: "it is being read",
        free.key: "",
    }


@st.composite
def forests(draw: st.DrawFn) -> list[Item]:
    items: list[Item] = []
    for number in range(draw(st.integers(0, 12))):
        needs = draw(st.lists(st.sampled_from(items), unique=True, max_size=3)) if items else []
        used_s = draw(st.integers(0, 5))
        held = draw(st.sampled_from(["", "", "", "held"]))
        kind = draw(st.sampled_from(Kind))
        size = draw(st.integers(0, 9))
        items.append(item(str(number), used_s, *needs, size=size, kind=kind, held=held))
    return items


@given(forests(), st.integers(0, 60), st.sets(st.sampled_from(Kind)))
def test_whatever_is_removed_nothing_that_stays_lacks_what_it_needs(
    items: list[Item], bound: int, kinds: set[Kind]
) -> None:
    policy = PrunePolicy(kinds=tuple(kinds), max_used_bytes=bound)
    plan = choose(items, policy, now_s=NOW, free_bytes=0)
    left = {one.key: one for one in items}
    for one in plan.remove:
        assert one.key.kind in kinds
        assert not one.held
        # Not one too many: the bound was not kept yet.
        assert sum(other.size for other in left.values()) > bound
        del left[one.key]
        assert all(need in left for other in left.values() for need in other.needs)
    if sum(one.size for one in left.values()) > bound:
        could = {key for key, why in reasons(list(left.values())).items() if not why}
        needed = {need for one in left.values() for need in one.needs}
        assert not {key for key in could - needed if key.kind in kinds}


# --- without bounds ---------------------------------------------------------------------------

GIB = 1 << 30


def gone(used: int, free: int, disk: int) -> list[str]:
    """Return what goes, in order, of so many results of 1 GiB on such a disk, in GiB."""
    policy = default_policy(disk * GIB)
    items = [item(f"r{n:03}", n, size=GIB) for n in range(used)]
    found = removed(policy, *items, free_bytes=free * GIB)
    assert may_remove(policy, free * GIB) or not found
    return found


def test_without_bounds_a_tenth_of_the_disk_is_kept_free() -> None:
    assert gone(used=40, free=10, disk=100) == []
    assert gone(used=40, free=7, disk=100) == ["r000", "r001", "r002"]


def test_without_bounds_as_much_is_left_however_full_others_have_made_the_disk() -> None:
    assert gone(used=10, free=0, disk=100) == []
    assert gone(used=12, free=0, disk=100) == ["r000", "r001"]
    assert gone(used=2, free=0, disk=4) == []


@given(
    st.integers(0, 50),
    st.integers(0, 50),
    st.sampled_from([None, 5]),
    st.sampled_from([None, 9]),
)
def test_a_policy_that_could_remove_nothing_removes_nothing(
    used: int, free: int, max_used: int | None, min_free: int | None
) -> None:
    policy = PrunePolicy(max_used_bytes=max_used, min_free_bytes=min_free)
    items = [Item(Key(Kind.RESULT, str(n)), 1, n) for n in range(used)]
    if not may_remove(policy, free):
        assert choose(items, policy, now_s=1000, free_bytes=free).remove == ()


def test_no_bound_at_all_is_asked_for_by_none_free(tmp_path: Path) -> None:
    (none,) = _policies(tmp_path, None, "0", None)
    assert not may_remove(none, 0)
    assert _policies(tmp_path, "1g", None, None) == (PrunePolicy(max_used_bytes=GIB),)
    default = _policies(tmp_path / "not/there/yet", None, None, None)
    assert default == (default_policy(shutil.disk_usage(tmp_path).total),)
