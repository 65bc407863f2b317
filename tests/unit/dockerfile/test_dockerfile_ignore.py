import pytest

from solver.dockerfile import DockerfileError, ignore_matcher

TEXT = """\
# comment
*.log
/build
node_modules/
docs/**
!docs/README.md
**/*.tmp
!important.tmp
"""


@pytest.mark.parametrize(
    ("path", "excluded"),
    [
        ("a.log", True),
        ("x/a.log", False),
        ("build", True),
        ("build/x/y", True),
        ("x/build", False),
        ("node_modules/a", True),
        ("docs/a.md", True),
        ("docs/README.md", False),
        ("deep/er/a.tmp", True),
        ("important.tmp", False),
        ("src", False),
        ("", False),
        ("/", False),
        ("/build/", True),
    ],
)
def test_last_pattern_that_matches_decides(path: str, excluded: bool) -> None:
    ignore = ignore_matcher(TEXT)
    assert ignore.excludes(path) is excluded
    assert ignore.excludes(path) is excluded


def test_directory_is_pruned_only_where_nothing_can_come_back() -> None:
    ignore = ignore_matcher("docs\nbuild\n!docs/README.md")
    assert ignore.may_prune("build")
    assert not ignore.may_prune("docs")
    assert not ignore.may_prune("src")
    assert ignore.may_prune("docs/deep")


@pytest.mark.parametrize("odd", ["\f", "\r", "\x85", "\u2028"])
def test_lines_end_where_docker_says_that_they_do(odd: str) -> None:
    ignore = ignore_matcher(f"a{odd}b\r\nc\n")
    assert ignore.excludes(f"a{odd}b")
    assert ignore.excludes("c")
    assert not ignore.excludes("a")
    assert not ignore.excludes("b")


def test_no_patterns_exclude_nothing() -> None:
    ignore = ignore_matcher("\n# nothing\n")
    assert not ignore.excludes("a")
    assert not ignore.may_prune("a")


@pytest.mark.parametrize("pattern", ["a[", "!", "[z-", "a\\"])
def test_bad_pattern_is_refused_with_its_line(pattern: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        ignore_matcher(f"ok\n{pattern}\n", filename="app.dockerignore")
    assert str(caught.value).startswith("app.dockerignore:2: not a pattern: ")
