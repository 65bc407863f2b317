"""Include and exclude rules: rsync's own answers are the specification."""

import os
import subprocess
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from filesync.errors import UsageError
from filesync.sync.filter import Filter


def left(filter: Filter, tree: dict[str, bool]) -> set[str]:
    """Return what of ``tree`` (path: is it a directory) is not left out."""
    kept: set[str] = set()
    for path in sorted(tree):
        parent = path.rpartition("/")[0]
        if (not parent or parent in kept) and not filter.excludes(path.encode(), tree[path]):
            kept.add(path)
    return kept


def rsync_keeps(rules: list[str], tree: dict[str, bool], *, source: str = "s/") -> set[str]:
    """Return what of ``tree`` rsync would copy."""
    with tempfile.TemporaryDirectory() as made:
        root = Path(made, "s")
        root.mkdir()
        for path, is_directory in sorted(tree.items()):
            if is_directory:
                (root / path).mkdir()
            else:
                (root / path).touch()
        options = [f"--exclude={rule}" for rule in rules]
        command = ["rsync", "-rn", "--out-format=%n", *options, source, "nowhere"]
        done = subprocess.run(command, cwd=made, capture_output=True, text=True, check=True)
    lines = (line.rstrip("/") for line in done.stdout.splitlines())
    return {line for line in lines if line not in (".", "") and "created dir" not in line}


names = st.text("ab.[]\\-*?", min_size=1, max_size=3).filter(lambda name: name.strip("."))


@st.composite
def trees(draw: st.DrawFn) -> dict[str, bool]:
    tree: dict[str, bool] = {}
    directories = [""]
    for _ in range(draw(st.integers(1, 12))):
        path = draw(st.sampled_from(directories)) + draw(names)
        if path not in tree:
            tree[path] = draw(st.booleans())
            if tree[path]:
                directories.append(path + "/")
    return tree


patterns = st.one_of(
    st.text("ab.*?/", min_size=1, max_size=7),
    st.text("ab.*?/[]!^-\\", min_size=1, max_size=9),
    st.sampled_from(["*/", "*", "**", "/**", "***", "a/***", "**/", "[[:alpha:]]", "/*/*"]),
).filter(lambda pattern: pattern.strip("!") and not pattern.isspace())
rules_lists = st.lists(
    st.tuples(st.sampled_from(["- ", "+ ", "- "]), patterns).map("".join), max_size=4
)


@pytest.mark.needs("rsync")
@given(trees(), rules_lists)
@example({"a": True, "a/b": True, "a/b/a": False}, ["- a/**/a", "+ a/*/a"])
@example({"a": True, "a/b": False, "b": False}, ["+ */", "+ b", "- *"])
@example({"a": True, "a/b": False}, ["- a/***"])
@example({"a": True, "a/b": True, "a/b/a": False, "b": True}, ["- **/b", "- /**a"])
@example({"a": False, "b": False}, ["- !"])
def test_what_is_left_out_is_what_rsync_leaves_out(
    tree: dict[str, bool], rules: list[str]
) -> None:
    ours = left(Filter([rule.encode() for rule in rules]), tree)
    assert ours == rsync_keeps(rules, tree)


@pytest.mark.needs("rsync")
@pytest.mark.parametrize("rule", ["/s/a", "/a", "s/a", "s", "/s/**", "a", "**/a"])
def test_a_source_without_a_slash_is_part_of_the_paths(rule: str) -> None:
    tree = {"a": False, "b": True, "b/a": False}
    ours = Filter([rule.encode()], root=b"s/")
    kept = {f"s/{path}" for path in left(ours, tree)}
    if Filter([rule.encode()]).excludes(b"s", True):
        kept = set()
    else:
        kept.add("s")
    assert kept == rsync_keeps([rule], tree, source="s")


@pytest.mark.parametrize(
    ("rules", "path", "is_directory", "is_out"),
    [
        (["*.o"], "d/x.o", False, True),
        (["*.o"], "x.o/", True, False),
        (["tmp/"], "tmp", False, False),
        (["tmp/"], "d/tmp", True, True),
        (["/tmp"], "d/tmp", True, False),
        (["+ keep.o", "*.o"], "keep.o", False, False),
        (["*.o", "+ keep.o"], "keep.o", False, True),
        (["*.o", "!"], "x.o", False, False),
        (["foo\\bar"], "foo\\bar", False, True),
        (["a[!b]"], "a/", False, False),
        (["[unclosed"], "[unclosed", False, False),
        (["[[:nothing:]]"], "n", False, False),
        (["\udcff*"], "\udcffx", False, True),
        (["a*"], "a\nb", False, True),
    ],
)
def test_a_rule_matches(rules: list[str], path: str, is_directory: bool, is_out: bool) -> None:
    filter = Filter([os.fsencode(rule) for rule in rules])
    assert filter.excludes(os.fsencode(path), is_directory) is is_out


@given(st.lists(patterns, min_size=2, max_size=40), st.lists(names, min_size=1, max_size=4))
def test_of_many_rules_the_first_decides_that_matches_alone(
    rules: list[str], path: list[str]
) -> None:
    at = "/".join(path).encode()
    for is_directory in (False, True):
        deciding = next(
            (r for r in rules if Filter([f"- {r}".encode()]).excludes(at, is_directory)), None
        )
        for included in rules:
            marked = [("+ " if rule == included else "- ") + rule for rule in rules]
            is_out = Filter([os.fsencode(rule) for rule in marked]).excludes(at, is_directory)
            assert is_out == (deciding not in (None, included))


def test_long_rules_decide_in_their_order_too() -> None:
    """They do not become one expression."""
    rules = [b"+ b%d*" % at + b"?" * 60 + b"x" * 3000 for at in range(20)]
    assert not Filter([*rules, b"- *"]).excludes(b"b7" + b"y" * 60 + b"x" * 3000, False)
    assert Filter([b"- *", *rules]).excludes(b"b7" + b"y" * 60 + b"x" * 3000, False)


def test_no_pattern_takes_long_however_it_was_meant_to_hurt() -> None:
    """Bounded by the pattern's and the path's lengths: backtracking would take years."""
    path = b"/".join([b"a" * 250] * 16)
    started = time.process_time()
    for pattern in (
        b"*a" * 30 + b"b",
        b"**a" * 30 + b"b",
        b"a*" * 20 + b"**" + b"a*" * 20 + b"b",
        b"/**" + b"*a" * 30 + b"**b",
        b"**/" * 21 + b"b",
    ):
        assert not Filter([pattern]).excludes(path, False)
    assert time.process_time() - started < 60


def test_others_have_their_turns_while_rules_that_are_meant_to_hurt_are_compared() -> None:
    path = b"/".join([b"a" * 250] * 16)
    filter = Filter([b"/**" + b"a" * (10 + at) + b"*/a*a*[b]" for at in range(60)])
    turns = [time.monotonic()]
    ended = threading.Event()

    def take_turns() -> None:
        while not ended.wait(0.001):
            turns.append(time.monotonic())

    other = threading.Thread(target=take_turns)
    other.start()
    assert not filter.excludes(path, False)
    turns.append(time.monotonic())
    ended.set()
    other.join()
    waited = [after - before for before, after in pairwise(turns)]
    assert max(waited) < sum(waited) / 2


def test_a_pattern_without_end_is_refused() -> None:
    with pytest.raises(UsageError, match="wildcards"):
        Filter([b"*a" * 100])
    with pytest.raises(UsageError, match="empty"):
        Filter([b""])


@pytest.mark.parametrize(
    ("rule", "matching", "others"),
    [
        (b"[!a]", [b"!", b"b", b"^"], [b"a"]),
        (b"[^a]", [b"!", b"b", b"^"], [b"a"]),
        (b"[]a]", [b"]", b"a"], [b"[", b"b"]),
        (b"[!]a]", [b"b", b"!"], [b"]", b"a"]),
        (b"[b-a]", [b"b"], [b"a", b"-"]),
        (b"[a-]", [b"a", b"-"], [b"b"]),
        (b"[a-c]", [b"a", b"b", b"c"], [b"d", b"-"]),
        (b"[a", [], [b"a", b"[a"]),
        (b"[[:digit:]x]", [b"7", b"x"], [b":", b"d"]),
        (b"[[:nothing:]]", [], [b"n", b":"]),
    ],
)
def test_brackets_match_one_byte_as_in_a_shell(
    rule: bytes, matching: list[bytes], others: list[bytes]
) -> None:
    one = Filter([rule])
    assert [name for name in matching + others if one.excludes(name, False)] == matching


def test_three_stars_behind_a_slash_are_a_directory_and_all_in_it_and_no_file() -> None:
    one = Filter([b"a/***"])
    assert one.excludes(b"a", True)
    assert one.excludes(b"a/b", False)
    assert not one.excludes(b"a", False)
