"""What git prints, and what strangers write into ``.gitmodules``: understood or refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.git import BadRepository
from worker.git.address import Address, Login
from worker.git.listing import Budget, Listing, Submodule, find_ref, parse_modules
from worker.wire.urls import GitFound

A, B = "a" * 40, "b" * 40


def test_a_whole_name_comes_before_a_branch_and_that_before_a_tag() -> None:
    lines = f"{A}\trefs/tags/x\n{B}\trefs/heads/x\n"
    assert find_ref(lines, "x") == GitFound(B, "refs/heads/x")
    assert find_ref(lines, "tags/x") == GitFound(A, "refs/tags/x")
    assert find_ref(f"{A}\trefs/heads/dir/x\n", "x") is None
    assert find_ref(f"{A}\trefs/tags/x\n{B}\trefs/tags/x^{{}}\n", "x") == GitFound(
        B, "refs/tags/x"
    )


def test_a_name_is_told_of_whole_whatever_is_in_it() -> None:
    assert find_ref(f"{A}\trefs/heads/x\u2028y\n{B}\trefs/tags/x\n", "x") == GitFound(
        B, "refs/tags/x"
    )


def test_a_head_that_is_no_branch_has_no_name() -> None:
    for target in ("refs/pull/1", "-x", ""):
        assert find_ref(f"ref: {target}\tHEAD\n{A}\tHEAD\n", "") == GitFound(A)


def test_a_budget_is_for_all_repositories_together() -> None:
    budget = Budget(files=3, bytes=10)
    Listing(budget, "").take(b"100644 blob 1       4\ta\x00100644 blob 2       5\tb\x00")
    with pytest.raises(BadRepository, match="bytes are not taken"):
        Listing(budget, "").take(b"100644 blob 1       2\ta\x00")


def test_a_listing_that_comes_a_byte_at_a_time_is_the_same() -> None:
    data = (
        b"100644 blob 5       4\t.gitmodules\x00040000 tree 6       -\td\x00"
        + f"160000 commit {A}       -\td/s\x00".encode()
    )
    listing = Listing(Budget(), "d")
    for at in range(len(data)):
        listing.take(data[at : at + 1])
    assert (listing.submodules, listing.modules) == ({b"d/s": A}, "5")
    assert (listing.has_subdir, listing.is_empty) == (True, False)


def test_gitmodules_that_is_a_link_is_not_read() -> None:
    listing = Listing(Budget(), "")
    listing.take(b"120000 blob 5       4\t.gitmodules\x00")
    assert listing.modules == ""


def test_submodules_are_known_by_their_path() -> None:
    printed = b"submodule.a.b.path\nx/y/\0submodule.a.b.url\n../z\0submodule.a.b.update\n!rm\0core.x\ny\0"
    assert parse_modules(printed) == {b"x/y": Submodule("../z")}


BASE = Address.parse("https://me:p%40ss@host:1/a/b.git")


def test_an_address_keeps_its_login_apart() -> None:
    assert BASE.login == Login("me", "p@ss")
    assert (BASE.url, BASE.origin, BASE.host) == (
        "https://host:1/a/b.git",
        "https://host:1",
        "host:1",
    )
    assert "p@ss" not in repr(BASE)


@pytest.mark.parametrize(
    ("text", "url", "keeps_login"),
    [
        ("../c.git", "https://host:1/a/c.git", True),
        ("./c.git", "https://host:1/a/b.git/c.git", True),
        ("../../c.git", "https://host:1/c.git", True),
        ("https://host:1/x.git", "https://host:1/x.git", True),
        ("http://host:1/x.git", "http://host:1/x.git", False),
        ("https://host/x.git", "https://host/x.git", False),
        ("https://host:1.evil.org/x.git", None, False),
        ("https://u:p@x.helper=!id/x.git", None, False),
        ("https://[::1]:8080/x.git", "https://[::1]:8080/x.git", False),
        ("../../../evil.org/c.git", None, False),
        ("../../../../evil.org/c.git", None, False),
        ("https://host:1@evil.org/x.git", "https://evil.org/x.git", False),
    ],
)
def test_a_submodule_has_the_login_of_its_parent_at_the_very_same_place_only(
    text: str, url: str | None, keeps_login: bool
) -> None:
    if url is None:
        with pytest.raises(BadRepository):
            BASE.of_submodule(text)
        return
    found = BASE.of_submodule(text)
    assert found.url == url
    assert (found.login == BASE.login) == keeps_login


@given(st.text(), st.binary(), st.sampled_from(["", "HEAD", "main", "refs/tags/v1"]))
def test_any_words_are_understood_or_refused(text: str, data: bytes, ref: str) -> None:
    find_ref(text, ref)
    find_ref(f"{A}\t{text}\nref: {text}\tHEAD\n", ref)
    parse_modules(data)
    for url in (text, f"https://{text}", f"../{text}", f"https://{text}@x/", f"./../{text}"):
        with contextlib.suppress(BadRepository):
            found = BASE.of_submodule(url)
            assert found.url.startswith(("https://", "http://"))
            assert not set(found.origin) & set("=@ ?#\n")
            assert found.login != BASE.login or found.origin == BASE.origin
