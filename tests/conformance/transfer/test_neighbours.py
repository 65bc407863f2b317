"""Others in the destination while it is written: who plants links, and who writes as well."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conformance.transfer.conftest import Stage
from tests.conformance.transfer.look import differences, look
from tests.conformance.transfer.test_kinds import make
from tests.conformance.transfer.tools import Claim, Tool, claimants, ours_and_rsync

LEVELS = ("a", "a/b", "a/b/c")
# Takes a directory away, puts a link to another in its place, and puts it back.
_FLIPPER = """
import os, sys
path, aside, outside = sys.argv[1:]
print(flush=True)
while True:
    try:
        os.rename(path, aside)
    except OSError:
        continue
    try:
        os.symlink(outside, path)
    except OSError:
        pass
    try:
        if os.path.islink(path):
            os.unlink(path)
        os.rename(aside, path)
    except OSError:
        pass
"""


@contextmanager
def flipping(path: Path, *, aside: Path, outside: Path) -> Iterator[None]:
    """Have somebody change the directory ``path`` and a link to ``outside`` all the time."""
    command = [sys.executable, "-c", _FLIPPER, str(path), str(aside), str(outside)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.kill()
        process.communicate()


def fill(root: Path, *, version: int) -> None:
    """Make files in all levels, each of one version."""
    for level in ("", *LEVELS):
        for number in range(60):
            make(root / level / f"f{number}", b"version %d" % version * (number + 1))
        make(root / level / f"only{version}", b"1")
        make(root / level / f"dir{version}/in", b"1")


def clean(root: Path) -> None:
    """Remove what a flipper has left."""
    subprocess.run(["rm", "-rf", str(root)], check=True)


@claimants(Claim.HOLDS_DIRECTORIES)
@pytest.mark.parametrize("level", LEVELS)
def test_a_link_planted_at_a_parent_leads_nobody_out_of_the_destination(
    tool: Tool, stage: Stage, level: str
) -> None:
    outside = stage.root / "outside"
    fill(outside, version=0)
    before = look(outside)
    sources = [stage.root / f"src{version}" for version in (1, 2)]
    for version, src in enumerate(sources, 1):
        fill(src, version=version)
    tool.must_sync(sources[0], stage.dst)
    aside = stage.root / "aside"
    with flipping(stage.dst / level, aside=aside, outside=outside / level):
        for turn in range(4):
            done = tool.sync(sources[1 - turn % 2], stage.dst)
            assert done.code in (0, 1, 23), done  # 23: the parent was gone when a name was made
    assert look(outside) == before
    clean(aside)
    tool.must_sync(sources[0], stage.dst)
    assert differences(sources[0], stage.dst) == []


@claimants(Claim.HOLDS_DIRECTORIES)
@pytest.mark.parametrize("level", LEVELS)
def test_a_link_planted_in_the_source_gives_away_nothing_outside_it(
    tool: Tool, stage: Stage, level: str
) -> None:
    outside = stage.root / "outside"
    for name in LEVELS:
        for number in range(60):
            make(outside / name / f"f{number}", b"secret")
    fill(stage.src, version=1)
    with flipping(stage.src / level, aside=stage.root / "aside", outside=outside / level):
        for _ in range(3):
            done = tool.sync(stage.src, stage.dst)
            assert done.code in (0, 1, 24), done
            secrets = [p for p in stage.dst.rglob("f*") if p.read_bytes() == b"secret"]
            assert secrets == []


@claimants(Claim.SERVED_PATHS)
def test_a_link_planted_above_a_served_destination_is_not_followed(
    tool: Tool, stage: Stage
) -> None:
    above = stage.root / "above"
    outside = stage.root / "outside"
    (outside / "dst").mkdir(parents=True)
    (above / "dst").mkdir(parents=True)
    fill(stage.src, version=1)
    with flipping(above, aside=stage.root / "aside", outside=outside):
        for _ in range(3):
            done = tool.sync(stage.src, above / "dst")
            assert done.code in (0, 1), done
    assert list(look(outside)) == [b"", b"dst"]


def two_sources(stage: Stage) -> list[Path]:
    """Make two trees of the same names and of other sizes, large files among them."""
    sources = [stage.root / f"src{version}" for version in (1, 2)]
    for version, src in enumerate(sources, 1):
        for number in range(200):
            data = b"%d of %d;" % (number, version) * (number * version + 1)
            make(src / f"d{number % 5}/f{number}", data)
        for number in range(4):
            make(src / f"large{number}", os.urandom(4096) * (500 + version))
        make(src / f"only{version}/x", b"%d" % version)
    return sources


@ours_and_rsync
def test_two_writers_at_once_never_mix_two_files(tool: Tool, stage: Stage) -> None:
    sources = two_sources(stage)
    trees = [look(src) for src in sources]
    for turn in range(2):
        running = [tool.start(src, stage.dst) for src in sources]
        for one in running:
            one.wait()
        for path, seen in look(stage.dst).items():
            if seen.kind == "file" and not os.path.basename(path).startswith(b"."):
                assert seen.what in [tree[path].what for tree in trees if path in tree], path
        src = sources[turn % 2]
        tool.must_sync(src, stage.dst)
        assert differences(src, stage.dst) == []


@claimants(Claim.ONE_WRITER)
def test_a_second_writer_is_refused_with_a_sentence_or_comes_after_the_first(
    tool: Tool, stage: Stage
) -> None:
    sources = two_sources(stage)
    refused = 0
    for turn in range(5):
        running = [tool.start(src, stage.dst, rate="12M") for src in sources]
        ended = [one.wait() for one in running]
        codes = sorted(one.code for one in ended)
        assert codes[0] == 0, ended
        for one in ended:
            if one.code:
                assert "is giving to" in one.err or "is writing to" in one.err, one
                refused += 1
        # One of them wrote last, or alone; all that it has is there.
        assert any(differences(src, stage.dst) == [] for src in sources)
        if refused and turn:
            break
    assert refused, "they never met"
