"""Syncs of what a file lists, and nothing else (``--files-from``)."""

import os
from pathlib import Path

import pytest

from tests.conformance.transfer.conftest import Stage
from tests.conformance.transfer.look import look
from tests.conformance.transfer.tools import Tool, every_tool, ours_and_rsync


@pytest.fixture
def src(stage: Stage) -> Path:
    for name in ("a/b/f", "a/g", "d/e/h", "d/i", "#c"):
        path = stage.src / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (stage.src / "a").chmod(0o710)
    os.utime(stage.src / "a", ns=(0, 5_000_000_007))
    stage.dst.mkdir()
    (stage.dst / "other").write_text("other")
    return stage.src


def names_in(root: Path) -> set[str]:
    return {os.fsdecode(path) for path in look(root)} - {""}


def take(tool: Tool, stage: Stage, listed: bytes, *words: str) -> tuple[int, set[str]]:
    """Sync what is listed; return the code and the names that are new."""
    stage.root.joinpath("list").write_bytes(listed)
    options = [f"--files-from={stage.root}/list", *words]
    done = tool.sync(stage.src, stage.dst, options=options, deletes=False)
    return done.code, {os.fsdecode(path) for path in look(stage.dst)} - {"", "other"}


@every_tool
@pytest.mark.parametrize(
    ("listed", "words", "names"),
    [
        (b"a/b/f\n", [], {"a", "a/b", "a/b/f"}),
        (b"./d/i\n/a//g\r\n", [], {"a", "a/g", "d", "d/i"}),
        (b"\na/g\n\n", [], {"a", "a/g"}),
        (b"d/i\0a/g\0", ["-0"], {"a", "a/g", "d", "d/i"}),
        (b"d\na/b\n", [], {"a", "a/b", "d"}),
        (b"d/\na/b/.\n", [], {"a", "a/b", "a/b/f", "d", "d/e", "d/i"}),
        (b"d\n", ["-ar"], {"d", "d/e", "d/e/h", "d/i"}),
        (b".\n", [], {"a", "d", "#c"}),
        (b"a/g\nd/i\nd/e/h\n", ["--exclude=h"], {"a", "a/g", "d", "d/i"}),
        (b"", [], set()),
    ],
)
def test_what_is_listed_comes_and_nothing_else_comes_or_goes(
    tool: Tool, stage: Stage, src: Path, listed: bytes, words: list[str], names: set[str]
) -> None:
    code, found = take(tool, stage, listed, *words)
    assert (code, found - {"d/e"}) == (0, names - {"d/e"})
    seen = look(src)
    assert {
        name: one for name, one in look(stage.dst).items() if os.fsdecode(name) in names
    } == {name: one for name, one in seen.items() if os.fsdecode(name) in names}
    assert (stage.dst / "other").read_text() == "other"


@every_tool
def test_what_is_listed_and_not_there_costs_no_other(
    tool: Tool, stage: Stage, src: Path
) -> None:
    longest = b"n" * 256
    listed = [
        b"nowhere",
        longest,
        b"a/" + longest,
        longest + b"/x",
        b"a/nothing",
        b"d/i",
        b"a/g/x",
    ]
    code, names = take(tool, stage, b"\n".join(listed))
    assert (code, names) == (23, {"d", "d/i"})


@every_tool
@pytest.mark.parametrize("listed", [b"a/b/no\n", b"a/b/no\nd/i\n", b"a/b/no/no\nd/i\n"])
@pytest.mark.parametrize("is_excluded", [False, True])
@pytest.mark.parametrize("there", ["a", "a/b", "a/b/"])
def test_what_leads_to_nothing_that_comes_leaves_alone_what_is_there(
    tool: Tool, stage: Stage, src: Path, listed: bytes, is_excluded: bool, there: str
) -> None:
    if is_excluded:
        (src / "a/b/no/no").mkdir(parents=True)
    path = stage.dst / there
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if there.endswith("/") else path.write_text("no directory")
    before, names = look(stage.dst), names_in(stage.dst)
    words = ["--exclude=no"] if is_excluded else []
    come = {"d", "d/i"} if b"d/i" in listed else set()
    for _ in range(2):
        assert take(tool, stage, listed, *words)[0] == (0 if is_excluded else 23)
        assert names_in(stage.dst) == names | come
        assert all(look(stage.dst)[name] == one for name, one in before.items() if name)


@every_tool
def test_the_next_one_brings_what_has_changed(tool: Tool, stage: Stage, src: Path) -> None:
    take(tool, stage, b"a/g\nd/i\n")
    (src / "a/g").write_text("another")
    (src / "d/i").unlink()
    assert take(tool, stage, b"a/g\n") == (0, {"a", "a/g", "d", "d/i"})
    assert (stage.dst / "a/g").read_text() == "another"


@ours_and_rsync
@pytest.mark.parametrize("is_long", [False, True])
def test_what_leads_to_something_comes_and_stays_though_it_is_excluded(
    tool: Tool, stage: Stage, src: Path, is_long: bool
) -> None:
    """Where it goes it is seen, too."""
    more = [f"d/{number}" for number in range(1500 * is_long)]
    for name in more:
        (src / name).touch()
    listed = "\n".join(["a/b/f", "d/e/h", *more]).encode()
    words = ["--exclude=/a", "--exclude=/d/e", "--exclude=h", "--existing"]
    for name in ("a/b", "d/e", "d/kept"):
        (stage.dst / name).mkdir(parents=True)
    (stage.dst / "a/b/f").write_text("old")
    for _ in range(2):
        code, _ = take(tool, stage, listed, *words)
        assert code == 0
        assert (stage.dst / "a/b/f").read_text() == "a/b/f"
        assert names_in(stage.dst) == {"a", "a/b", "a/b/f", "d", "d/e", "d/kept", "other"}
    assert take(tool, stage, listed, *words[:3])[0] == 0
    assert (stage.dst / "d/kept").exists()


@ours_and_rsync
@pytest.mark.parametrize("exclude", ["b", "/a/b", "a", "/a/b/"])
def test_what_is_excluded_comes_for_what_is_listed_in_it_alone(
    tool: Tool, stage: Stage, src: Path, exclude: str
) -> None:
    (src / "a/b/deep").mkdir()
    for name in ("a/b/other", "a/b/deep/other"):
        (src / name).touch()
    words = ["-ar", f"--exclude={exclude}"]
    code, names = take(tool, stage, b"a\na/b/f\nd/i\n", *words)
    assert (code, names - {"a/g"}) == (0, {"a", "a/b", "a/b/f", "d", "d/i"})
    assert ("a/g" in names) == (exclude != "a")


@every_tool
def test_what_is_listed_in_a_file_costs_no_other(tool: Tool, stage: Stage, src: Path) -> None:
    (src / "file").write_text("no directory")
    assert take(tool, stage, b"file/x\nd/i\n") == (23, {"d", "d/i"})
    assert take(tool, stage, b"file/x\nfile\n") == (23, {"d", "d/i", "file"})
