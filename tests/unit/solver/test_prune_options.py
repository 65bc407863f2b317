"""The options of prune, in docker's words."""

import pytest

from filesync.errors import UsageError
from solver.client.pruning import prune_policy
from worker.wire.disk import Kind, PrunePolicy


def test_without_options_all_goes_but_what_cache_mounts_hold() -> None:
    kinds = (Kind.RESULT, Kind.BLOB, Kind.PARTIAL, Kind.SOURCE)
    assert prune_policy([], everything=False) == PrunePolicy(kinds)
    assert prune_policy([], everything=True) == PrunePolicy()


def test_filters_say_since_when_and_of_what_kind() -> None:
    policy = prune_policy(["until=24h", "type=exec.cachemount"], everything=False)
    assert policy == PrunePolicy((Kind.CACHE,), 86400.0)
    policy = prune_policy(["unused-for=90m", "type=blob", "type=regular"], everything=False)
    assert policy == PrunePolicy((Kind.BLOB, Kind.RESULT, Kind.PARTIAL), 5400.0)


def test_sizes_are_dockers() -> None:
    policy = prune_policy([], everything=True, reserved="1g", max_used="20GB", min_free="512m")
    assert policy == PrunePolicy(
        reserved_bytes=1 << 30, max_used_bytes=20 << 30, min_free_bytes=512 << 20
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("until=yesterday", "is not a duration, such as 30s"),
        ("type=frontend", "the types are result, blob"),
        ("id=abc", "write until=TIME"),
        ("until", "is not a duration"),
    ],
)
def test_a_filter_that_means_nothing_here_is_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        prune_policy([text], everything=False)


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--keep-storage: .* is not a size"):
        prune_policy([], everything=False, reserved="much")
