"""Patterns for one name, against a matcher that is as slow as it is plain."""

from fnmatch import translate
from re import DOTALL, compile

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from filesync.errors import UsageError
from filesync.trees.glob import compile_name, is_pattern, unescape


def matches(pattern: str, name: str) -> bool:
    """Go's path.Match, by trying everything."""
    if not pattern:
        return not name
    char, rest = pattern[0], pattern[1:]
    if char == "*":
        return any(matches(rest, name[at:]) for at in range(len(name) + 1))
    if not name:
        return False
    if char == "?":
        return matches(rest, name[1:])
    if char == "[":
        found, rest = in_class(rest, name[0])
        return found and matches(rest, name[1:])
    if char == "\\":
        char, rest = rest[0], rest[1:]
    return char == name[0] and matches(rest, name[1:])


def in_class(pattern: str, char: str) -> tuple[bool, str]:
    """Say whether the class that ``pattern`` begins within has ``char``; return what follows it."""
    is_negated = pattern.startswith("^")
    pattern = pattern[is_negated:]
    found, is_first = False, True
    while is_first or not pattern.startswith("]"):
        low, pattern = one_char(pattern)
        high = low
        if pattern.startswith("-"):
            high, pattern = one_char(pattern[1:])
        found |= low <= char <= high
        is_first = False
    return found != is_negated, pattern[1:]


def one_char(pattern: str) -> tuple[str, str]:
    at = pattern.startswith("\\")
    return pattern[at], pattern[at + 1 :]


patterns = st.text("ab*?[]^-\\\n", max_size=9)


@settings(max_examples=500)
@given(patterns, st.text("ab-]\\^\n*", max_size=8))
@example("*a*a", "aa")
@example("*ab*b", "abb")
@example("[^a-b]", "c")
@example("[b-a]", "a")
@example("*[a]*[b]", "aaabab")
@example("a\\*b*", "a*bab")
def test_what_matches_is_what_the_slow_one_says(pattern: str, name: str) -> None:
    try:
        match = compile_name(pattern)
    except UsageError:
        return
    assert bool(match(name)) is matches(pattern, name)


@settings(max_examples=500)
@given(st.text("ab*?", max_size=9), st.text("ab\n", max_size=9))
def test_stars_and_question_marks_mean_what_they_do_everywhere(pattern: str, name: str) -> None:
    theirs = compile(translate(pattern), DOTALL).match(name)
    assert bool(compile_name(pattern)(name)) is bool(theirs)


@given(st.text())
def test_an_escaped_name_is_no_pattern_and_matches_itself_alone(name: str) -> None:
    escaped = "".join(f"\\{char}" for char in name)
    assert not is_pattern(escaped)
    assert unescape(escaped) == name
    assert compile_name(escaped)(name)
    assert not compile_name(escaped)(name + "x")


@given(st.text())
def test_any_text_is_a_pattern_or_refused(pattern: str) -> None:
    try:
        compile_name(pattern)("name")
    except UsageError:
        pass


@pytest.mark.parametrize(
    "pattern", ["[", "[]", "[a", "[a-", "[a-]", "[-a]", "a\\", "[\\", "[^"]
)
def test_a_class_or_an_escape_without_its_end_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError):
        compile_name(pattern)
