"""Which files of a layer are kept while it streams by."""

import pytest

from filesync.trees.select import Pick, Selector
from worker.layers.member import LINK, SYMLINK, Member
from worker.parts.candidates import MAX_PATTERNS, Candidates


def candidates(*paths: str, wildcard: bool = True) -> Candidates:
    return Candidates(Selector(tuple(Pick(path, wildcard=wildcard) for path in paths)))


def link(path: str, target: str) -> Member:
    return Member(path.encode(), SYMLINK, link=target.encode())


def kept(asked: Candidates, *paths: str) -> list[str]:
    return [path for path in paths if asked.has(path.encode().split(b"/"))]


def test_what_is_at_or_below_a_path_is_kept_and_what_is_beside_it_is_not() -> None:
    asked = candidates("/usr/bin/../lib", "etc/*.conf")
    there = ("usr/lib", "usr/lib/a/b", "usr/libx", "usr", "etc/a.conf", "etc/a.conf/b", "etc/c")
    assert kept(asked, *there) == ["usr/lib", "usr/lib/a/b", "etc/a.conf", "etc/a.conf/b"]


def test_a_pattern_is_literal_without_a_wildcard() -> None:
    assert kept(candidates("a*", wildcard=False), "a*", "ab") == ["a*"]


@pytest.mark.parametrize("is_first", [True, False])
def test_where_a_link_leads_is_kept_whichever_is_seen_first(is_first: bool) -> None:
    asked = candidates("bin/sh")
    links = [link("bin", "usr/bin"), link("usr/bin/sh", "dash"), link("other", "/x")]
    asked.note(links if is_first else links[::-1])
    assert kept(asked, "usr/bin/dash", "x", "bin/dash") == ["usr/bin/dash"]


def test_absolute_links_and_dots_stay_below_the_root() -> None:
    asked = candidates("a", "b/c")
    asked.note([link("a", "/../../etc/x"), link("b", "../../q")])
    assert kept(asked, "etc/x", "q/c", "q/d") == ["etc/x", "q/c"]


def test_what_a_hard_link_is_a_link_to_is_kept() -> None:
    asked = candidates("new")
    asked.note([Member(b"new", LINK, link=b"old/name")])
    assert kept(asked, "old/name", "old/other") == ["old/name"]


def test_links_that_lead_round_and_round_cost_no_time() -> None:
    asked = candidates("a/b/c")
    asked.note(
        [link("a", "a/a"), link("b", "a/b"), *(link(f"a/{n}", "..") for n in range(500))]
    )
    # However often the links are gone through, only so many ways are looked at.
    assert asked.has([b"a"] * 3 + [b"b", b"c"])
    assert not asked.has([b"a"] * (MAX_PATTERNS + 5) + [b"b", b"c"])


def test_a_malformed_pattern_keeps_nothing() -> None:
    assert kept(candidates("[", "a"), "a", "[") == ["a"]
