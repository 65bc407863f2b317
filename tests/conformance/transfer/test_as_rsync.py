"""Trees made at random: what stands there afterwards is what rsync leaves."""

import os
import random
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conformance.transfer.conftest import Stage
from tests.conformance.transfer.look import Seen, look
from tests.conformance.transfer.tools import TIMEOUT_S, Claim, Tool, claimants, filesync_process
from tests.unit.update_driver import (
    Make,
    MakeDirectory,
    MakeFifo,
    MakeFile,
    MakeLink,
    MakeSymlink,
    build,
)

# Of no directory: of one that is left alone and is in the way rsync deletes what it may.
RULES = ("--exclude=*.o", "--include=a/*.o", "--exclude=/x.c", "--exclude=b/**.c")
SOURCES = (
    ["one/"],
    ["one"],
    ["one/", "two/"],
    ["one", "two/"],
    ["two/", "one"],
    ["one/a", "two/"],
    ["two/", "one/b", "one/a"],
    ["one/a", "two/a", "one/"],
)
# Its incremental recursion fails on hard links of several sources.
RSYNC = ["rsync", "-aHAXSc", "--numeric-ids", "--modify-window=-1", "--no-inc-recursive"]


def any_makes(rng: random.Random, *, links: bool) -> list[Make]:
    """Return what makes a small tree, with few names, so that much meets."""
    makes: list[Make] = []
    for _ in range(rng.randrange(3, 16)):
        path = "/".join(rng.choices("ab\n", k=rng.randrange(1, 4)))
        leaf = path if rng.random() < 0.4 else f"{path}/{rng.choice(['x.o', 'x.c', '*'])}"
        mode, mtime_ns = rng.choice([0o644, 0o400, 0o4755]), rng.randrange(3) * 10**18 + 7
        data = rng.choice([b"", b"x", b"y", bytes(9000) + b"end", b"z" * 300_000])
        kinds: list[Make] = [
            MakeFile(leaf, data, mode, mtime_ns),
            MakeFile(leaf, data, mode, mtime_ns),
            MakeDirectory(path, rng.choice([0o755, 0o2711, 0o1777]), mtime_ns),
            MakeSymlink(leaf, rng.choice(["a", "../b", "/etc"]), mtime_ns),
            MakeFifo(leaf, mode, mtime_ns),
            MakeLink(
                leaf, next((one.path for one in makes if isinstance(one, MakeFile)), path)
            ),
        ]
        makes.append(rng.choice(kinds if links else kinds[:-1]))
    return makes


def adorn(root: Path, rng: random.Random) -> None:
    """Give some of what is in a tree another owner, or an attribute."""
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        if rng.random() < 0.2:
            os.chown(path, rng.choice([0, 1000]), 1000, follow_symlinks=False)
        if rng.random() < 0.2 and stat.S_IFMT(status.st_mode) in (stat.S_IFREG, stat.S_IFDIR):
            os.setxattr(path, "user.x", rng.choice([b"", b"v"]))
        os.utime(path, ns=(0, status.st_mtime_ns), follow_symlinks=False)


def ours(
    tool: Tool, stage: Stage, words: Sequence[str], sources: Sequence[str]
) -> tuple[int, str]:
    """Sync to ``dst``; return the code and what was listed."""
    source, dest = f"{stage.root}/", f"{stage.dst}/"
    served = stage.root.relative_to(tool.servers.root)
    if tool.name == "filesync-to-server":
        dest = f"{tool.servers.filesync()}/{served}/dst/"
    elif tool.name == "filesync-from-server":
        source = f"{tool.servers.filesync()}/{served}/"
    running = filesync_process(
        ["sync", *words, *(source + one for one in sources), dest],
        user=None,
        cache=tool.servers.cache,
    )
    out, err = running.communicate(timeout=TIMEOUT_S)
    assert running.returncode in (0, 23), err
    return running.returncode, out


@pytest.mark.needs("rsync")
@claimants(Claim.NAMES_LOSSES)
@pytest.mark.parametrize("seed", range(16))
def test_any_trees_come_out_as_by_rsync_as_a_dry_run_said_and_once(
    tool: Tool, stage: Stage, seed: int
) -> None:
    rng = random.Random(seed)
    sources = rng.choice(SOURCES)
    # Of a file that is in several sources, each is given for itself.
    links = not any("/" in source.rstrip("/") for source in sources)
    one, two = any_makes(rng, links=links), any_makes(rng, links=links)
    kept = [make for make in one if rng.random() < 0.7 and not isinstance(make, MakeLink)]
    old = [*any_makes(rng, links=False)[:4], *kept]
    words = rng.choice([[], ["--delete"], ["--delete", *rng.sample(RULES, 2)]])
    theirs = stage.root / "theirs"
    for name, makes in (("one", one), ("two", two), ("dst", old), ("theirs", old)):
        within = name in ("dst", "theirs") and sources == ["one"]
        root = stage.root / name / "one" if within else stage.root / name
        root.mkdir(parents=True)
        build(root, makes)
        adorn(root, random.Random(seed + (name == "one")))
    done = subprocess.run([*RSYNC, *words, *sources, f"{theirs}/"], cwd=stage.root, check=False)
    said = ours(tool, stage, [*words, "-n", "-i"], sources)
    assert ours(tool, stage, [*words, "-i"], sources) == said
    assert said[0] == done.returncode
    # Where something cannot make way, rsync leaves the directory above with the time of that.
    given = {path for source in sources for path in given_by(stage.root, source)}
    given = given if done.returncode == 0 else set()
    assert seen(stage.dst, given) == seen(theirs, given)
    assert ours(tool, stage, [*words, "-i"], sources) == (said[0], "")


CHOICES = ("--existing", "--ignore-existing", "-u")


@pytest.mark.needs("rsync")
@claimants(Claim.NAMES_LOSSES)
@pytest.mark.parametrize("seed", range(24))
def test_what_comes_by_what_is_there_is_as_by_rsync_as_a_dry_run_said_and_once(
    tool: Tool, stage: Stage, seed: int
) -> None:
    rng = random.Random(seed)
    words = rng.sample(CHOICES, rng.choice([1, 1, 2])) + rng.choice([[], [], ["--delete"]])
    sources = rng.choice([["one/"], ["one"], ["one/", "two/"], ["one/a"]])
    # Of a file of which only some names come, rsync links those to what is there.
    one, two = any_makes(rng, links=False), any_makes(rng, links=False)
    old = any_makes(rng, links=False) + [make for make in one if rng.random() < 0.3]
    theirs = stage.root / "theirs"
    is_there = sources == ["one"] and rng.random() < 0.8
    for name, makes in (("one", one), ("two", two), ("dst", old), ("theirs", old)):
        within = name in ("dst", "theirs") and is_there
        root = stage.root / name / "one" if within else stage.root / name
        root.mkdir(parents=True)
        build(root, makes)
        adorn(root, random.Random(seed + (name == "one")))
    rsync = [*RSYNC, *words, *sources, f"{theirs}/"]
    done = subprocess.run(rsync, cwd=stage.root, check=False, stderr=subprocess.PIPE)
    # Where a directory does not come rsync goes on to what is in it, through a link, too.
    goes_on = "--ignore-existing" in words and meets_another_kind(stage, sources)
    said = ours(tool, stage, [*words, "-n", "-i"], sources)
    assert ours(tool, stage, [*words, "-i"], sources) == said
    given = {path for source in sources for path in given_by(stage.root, source)}
    given = given if done.returncode == 0 else set()
    assert goes_on or seen(stage.dst, given) == seen(theirs, given)
    assert ours(tool, stage, [*words, "-i"], sources) == (said[0], "")


def meets_another_kind(stage: Stage, sources: Sequence[str]) -> bool:
    """Say whether something else stands where one of the sources has a directory."""
    for source in sources:
        root = stage.root / source
        dst = stage.dst / source if source == "one" else stage.dst
        for path, one in look(root).items() if root.is_dir() else ():
            there = dst / os.fsdecode(path)
            is_directory = there.is_dir() and not there.is_symlink()
            if one.kind == "directory" and os.path.lexists(there) and not is_directory:
                return True
    return False


def given_by(root: Path, source: str) -> set[bytes]:
    """Return what stands at the destination of a source, and of what is in it."""
    name = os.fsencode(source.rpartition("/")[2])
    if not (root / source).is_dir() or (root / source).is_symlink():
        return {name}
    return {name + b"/" * bool(name and path) + path for path in look(root / source)}


def seen(root: Path, given: set[bytes]) -> dict[bytes, Seen]:
    """Return all that is in a tree; of directories that no source has, no times."""
    return {
        path: one._replace(mtime_ns=0) if one.kind == "directory" and path not in given else one
        for path, one in look(root).items()
    }
