"""``filesync sync`` and ``filesync serve`` as processes."""

import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from filesync.digest import Digest
from filesync.disk.scanning.scan import scan
from filesync.manifest import MemoryNodes
from tests.conformance.transfer.look import bytes_below
from tests.mounting import mount, tmpfs

COMMAND = [sys.executable, "-m", "filesync"]
UNCLONED = [
    sys.executable,
    "-c",
    "from filesync.disk.updating import write; write._FICLONE = 0;"
    "from runpy import run_module; run_module('filesync', run_name='__main__')",
]
"""The same where no file system copies a file without its bytes."""


class Bench:
    """A directory to work in, and the commands."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.env = os.environ | {"XDG_CACHE_HOME": str(root / "cache")}
        self.served = root / "served"
        self.served.mkdir()
        self._servers: list[subprocess.Popen[str]] = []

    def run(
        self, *arguments: str | Path, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            env=self.env,
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def sync(self, *arguments: str | Path) -> dict[str, Any]:
        """Sync, and return what it took."""
        stats = json.loads(self.run("sync", "--json", *arguments).stdout)
        assert isinstance(stats, dict)
        return stats

    def fails(self, *arguments: str | Path) -> str:
        """Run what must fail with one sentence; return it."""
        done = self.run(*arguments, check=False)
        assert done.returncode in (1, 2)
        assert done.stderr.startswith("filesync: error: ")
        assert "Traceback" not in done.stderr
        return done.stderr

    def serve(self, *options: str, root: Path | None = None) -> str:
        """Start a server; return its address."""
        words = ["serve", str(root or self.served), "--listen", "tcp://127.0.0.1:0"]
        server = subprocess.Popen(
            [*COMMAND, *words, "--until-eof", *options],
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._servers.append(server)
        assert server.stdout is not None
        return server.stdout.readline().strip()

    def kill_server(self) -> None:
        """Kill the server that was started last."""
        self._servers[-1].kill()
        self._servers[-1].wait()

    def close(self) -> None:
        for server in self._servers:
            server.communicate(timeout=20)
            assert server.returncode in (0, -signal.SIGKILL)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def fill(root: Path, *, files: int = 60, seed: int = 1) -> None:
    rng = random.Random(seed)
    for number in range(files):
        path = root / f"d{number % 7}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.choice([0, 10, 5000, 80_000, 300_000])))
    (root / "link").symlink_to("d0/f0")
    os.link(root / "d1/f1", root / "d2/same as f1")
    (root / "empty").mkdir()
    (root / "d3/f3").chmod(0o4750)
    os.utime(root / "d4/f4", ns=(0, 1_234_567_890_123_456_789))
    (root / os.fsdecode(b"n\xff\n")).write_bytes(b"an odd name")


def make(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def kinds_below(root: Path) -> dict[str, int]:
    """Return what each name in a tree is."""
    found = root.rglob("*")
    return {str(path.relative_to(root)): stat.S_IFMT(path.lstat().st_mode) for path in found}


def tree_of(root: Path) -> Digest:
    return scan(root, MemoryNodes()).tree


# --- on one machine ---------------------------------------------------------------------------


def test_a_local_sync_makes_the_same_tree(bench: Bench) -> None:
    fill(bench.root / "src")
    bench.sync("src/", "dst")
    assert tree_of(bench.root / "dst") == tree_of(bench.root / "src")
    assert bench.sync("src/", "dst")["files"] == 0


@contextmanager
def files_of_at_most(limit_bytes: int) -> Iterator[None]:
    """Have what is started meanwhile write no larger files."""
    old, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (old, most))


@pytest.mark.parametrize("is_served", [False, True])
def test_a_file_that_is_too_large_is_named_does_not_travel_and_all_else_is_done(
    bench: Bench, is_served: bool
) -> None:
    limit_bytes = 1 << 20
    for name, size in (("d/a", 5), ("d/large", limit_bytes + 1), ("z", limit_bytes)):
        make(bench.root / "src" / name, b"z" * size)
    with files_of_at_most(limit_bytes):
        dst = f"{bench.serve()}/dst" if is_served else "served/dst"
        for moved_bytes in (limit_bytes + 5, 0):
            done = bench.run("sync", "--json", "src/", dst, check=False)
            assert done.returncode == 23
            assert (
                "'d/large', at the destination, cannot be changed: File too large"
                in done.stderr
            )
            stats = json.loads(done.stdout)
            assert stats["refused"] == {"d/large": "File too large"}
            assert stats["content_bytes"] + stats["copied_bytes"] == moved_bytes
    made = {"d": stat.S_IFDIR, "d/a": stat.S_IFREG, "z": stat.S_IFREG}
    assert kinds_below(bench.served / "dst") == made


def test_a_slash_after_the_source_stands_for_what_is_in_it(bench: Bench) -> None:
    fill(bench.root / "src")
    bench.sync("src", "dst")
    assert os.listdir(bench.root / "dst") == ["src"]
    assert tree_of(bench.root / "dst/src") == tree_of(bench.root / "src")


def test_other_names_stay_without_delete_and_go_with_it(bench: Bench) -> None:
    fill(bench.root / "src")
    (bench.root / "dst/d1").mkdir(parents=True)
    (bench.root / "dst/d1/other").write_text("x")
    bench.sync("src/", "dst/")
    assert (bench.root / "dst/d1/other").read_text() == "x"
    assert (bench.root / "dst/d1/f1").exists()
    bench.sync("--delete", "src/", "dst/")
    assert tree_of(bench.root / "dst") == tree_of(bench.root / "src")


def test_a_dry_run_lists_what_would_change_and_changes_nothing(bench: Bench) -> None:
    for name in ("src/same", "src/new/x", "src/changed", "dst/same", "dst/changed", "dst/old"):
        path = bench.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("src" if name == "src/changed" else "dst")
        os.utime(path, ns=(0, 0))
    before = tree_of(bench.root / "dst")
    lines = bench.run("sync", "-n", "--delete", "src/", "dst").stdout.splitlines()
    assert lines == [
        "*deleting   old",
        ".d..t...... ./",
        ">fc........ changed",
        "cd+++++++++ new/",
        ">f+++++++++ new/x",
    ]
    assert tree_of(bench.root / "dst") == before
    bench.run("sync", "-n", "src/", "not there")
    assert not (bench.root / "not there").exists()


def test_what_is_excluded_is_neither_copied_nor_deleted(bench: Bench) -> None:
    for name in ("src/a.o", "src/a.c", "dst/d/b.o", "dst/d/b.c"):
        path = bench.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    bench.sync("--delete", "--exclude", "**/*.o", "src/", "dst")
    found = sorted(str(p.relative_to(bench.root / "dst")) for p in bench.root.glob("dst/**/*"))
    assert found == ["a.c", "d", "d/b.o"]


def test_delete_excluded_removes_what_is_left_out_too(
    bench: Bench, ways: tuple[str, str]
) -> None:
    for name in (
        "src/a",
        "src/b.o",
        "src/d/c.o",
        "served/gone",
        "served/d/b.o",
        "served/x/y.o",
    ):
        make(bench.root / name, b"1")
    words = ["--exclude=*.o", "--delete-excluded", f"{ways[0]}src/", ways[1]]
    said = bench.run("sync", "-avn", *words).stdout
    assert bench.run("sync", "-av", *words).stdout == said
    assert sorted(os.listdir(bench.served)) == ["a", "d"]
    assert os.listdir(bench.served / "d") == []
    assert bench.run("sync", "-av", *words).stdout == ""


def test_one_file_goes_to_a_name_or_into_a_directory(bench: Bench) -> None:
    (bench.root / "file").write_text("text")
    (bench.root / "dir").mkdir()
    bench.sync("file", "copy")
    bench.sync("file", "dir")
    assert (bench.root / "copy").read_text() == (bench.root / "dir/file").read_text() == "text"


def test_a_path_as_rsync_has_it_for_another_machine_makes_no_directory_here(
    bench: Bench,
) -> None:
    make(bench.root / "src/file", b"1")
    for words in (("src/", "host:dst/"), ("user@host:src/", "dst")):
        assert "ended with 1 and said nothing" in bench.fails("sync", "-e", "false", *words)
    assert not (bench.root / "host:dst").exists()
    bench.run("sync", "src/", "./host:dst")
    bench.run("sync", "-n", "./host:dst/", "src")
    assert (bench.root / "host:dst/file").read_bytes() == b"1"


@pytest.mark.needs("rsync")
def test_changes_are_itemized_as_rsync_does(bench: Bench) -> None:
    fill(bench.root / "src")
    # rsync compares whole seconds.
    for path in (bench.root / "src", *(bench.root / "src").rglob("*")):
        os.utime(path, ns=(0, 0), follow_symlinks=False)
    bench.run("sync", "src/", "dst")
    (bench.root / "src/d0/f0").write_bytes(b"longer than it was, and other bytes")
    (bench.root / "src/d1/new").mkdir()
    (bench.root / "src/d1/new/x").write_text("x")
    (bench.root / "src/d2/f2").chmod(0o600)
    (bench.root / "src/link").unlink()
    (bench.root / "src/link").symlink_to("elsewhere")
    (bench.root / "src/d4/f4").unlink()
    theirs = subprocess.run(
        ["rsync", "-aHni", "--delete", "src/", "dst/"],
        cwd=bench.root,
        capture_output=True,
        text=True,
        check=True,
    )
    ours = bench.run("sync", "-n", "--delete", "src/", "dst")
    assert sorted(ours.stdout.splitlines()) == sorted(theirs.stdout.splitlines())


@pytest.mark.parametrize("order", [["--include", "keep.o", "--exclude", "*.o"], None])
def test_the_first_pattern_that_matches_decides(bench: Bench, order: list[str] | None) -> None:
    for name in ("keep.o", "b.o", "b.c"):
        path = bench.root / "src" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    words = order or ["--exclude", "*.o", "--include", "keep.o"]
    bench.sync(*words, "src/", "dst")
    assert sorted(os.listdir(bench.root / "dst")) == ["b.c", "keep.o"][: 2 if order else 1]


def test_as_many_patterns_are_given_as_a_request_has_room_for(bench: Bench) -> None:
    # The tree's first nodes would go along, and are too much beside these.
    patterns = bench.root / "patterns"
    patterns.write_text("".join(f"{number:0514}\n" for number in range(1000)))
    for number in range(150):
        make(bench.root / "src" / os.urandom(20).hex(), b"%d" % number)
    make(bench.served / "dst/old", b"old")
    bench.sync("--delete", "--exclude-from", patterns, "src/", f"{bench.serve()}/dst")
    assert tree_of(bench.served / "dst") == tree_of(bench.root / "src")


@pytest.mark.parametrize(
    ("patterns", "why"),
    [
        ([f"{number}" for number in range(1001)], "1,001 patterns: "),
        (["x" * 5000], "a pattern for another machine has at most 4,096 bytes"),
    ],
    ids=["too many", "too long"],
)
def test_patterns_that_a_server_does_not_take_are_named_before_anything_is_made(
    bench: Bench, patterns: list[str], why: str
) -> None:
    (bench.root / "patterns").write_text("\n".join(patterns))
    make(bench.root / "src/f", b"f")
    make(bench.served / "src/f", b"f")
    server = bench.serve()
    words = ("sync", "--delete", "--exclude-from", "patterns")
    assert why in bench.fails(*words, "src/", f"{server}/dst")
    assert why in bench.fails(*words, f"{server}/src/", "dst")
    assert not (bench.served / "dst").exists()
    assert not (bench.root / "dst").exists()
    bench.run(*words, "src/", "dst")


def test_a_server_is_asked_for_a_thousand_paths_at_most(bench: Bench) -> None:
    server = bench.serve()
    many = (f"{server}/f{number}" for number in range(1001))
    assert "give fewer at once" in bench.fails("sync", *many, "dst")
    long = f"{server}/{'x/' * 2100}"
    for words in ((long, "dst"), ("src", long)):
        assert "a path for another machine has at most 4,096 bytes" in bench.fails(
            "sync", *words
        )


@pytest.fixture(params=["local", "to a server", "from a server"])
def ways(bench: Bench, request: pytest.FixtureRequest) -> tuple[str, str]:
    """Return what stands before the paths of the source and of the destination."""
    if request.param == "local":
        return "", "served/"
    address = bench.serve(root=bench.root) + "/"
    return ("", address + "served/") if request.param == "to a server" else (address, "served/")


@pytest.mark.needs("rsync")
@pytest.mark.parametrize("old", ["nothing", "other bytes", "another mode"])
def test_a_file_that_gets_another_name_is_itemized_by_its_own_as_rsync_does(
    bench: Bench, ways: tuple[str, str], old: str
) -> None:
    make(bench.root / "one", b"one")
    os.utime(bench.root / "one", ns=(0, 0))
    if old == "other bytes":
        make(bench.served / "two", b"other")
    elif old == "another mode":
        shutil.copy2(bench.root / "one", bench.served / "two")
        (bench.served / "two").chmod(0o600)
    check_itemized_as_by_rsync(bench, ways, "one", "two")
    done = bench.run("sync", "-v", f"{ways[0]}one", f"{ways[1]}two")
    assert done.stdout == "one\n"


@pytest.mark.needs("rsync")
@pytest.mark.parametrize("change", ["bytes", "time", "mode", "they become one"])
def test_names_of_one_file_that_changes_are_itemized_as_rsync_does(
    bench: Bench, ways: tuple[str, str], change: str
) -> None:
    for root in (bench.root / "src", bench.served / "dst"):
        make(root / "a", b"a")
        for name in "bc":
            os.link(root / "a", root / name)
        os.utime(root / "a", ns=(0, 0))
        os.utime(root, ns=(0, 0))
    if change == "bytes":
        (bench.served / "dst/a").write_bytes(b"other")
    if change == "they become one":
        for name in "bc":
            (bench.served / "dst" / name).unlink()
            shutil.copy2(bench.served / "dst/a", bench.served / "dst" / name)
        os.utime(bench.served / "dst", ns=(0, 0))
    elif change != "time":
        os.utime(bench.served / "dst/a", ns=(0, 10**18 * (change == "bytes")))
        (bench.served / "dst/a").chmod(0o600)
    else:  # rsync cannot know that the bytes are the same
        (bench.served / "dst/a").write_bytes(b"b")
        os.utime(bench.served / "dst/a", ns=(0, 10**18))
    check_itemized_as_by_rsync(bench, ways, "src/", "dst/")


@pytest.mark.needs("rsync")
@pytest.mark.parametrize("delete", [[], ["--delete"]])
def test_what_is_replaced_by_another_kind_is_itemized_as_new_as_rsync_does(
    bench: Bench, ways: tuple[str, str], delete: list[str]
) -> None:
    dst = bench.served / "dst"
    make(bench.root / "src/with/in", b"in")
    (bench.root / "src/link").symlink_to("elsewhere")
    make(bench.root / "src/file", b"file")
    make(bench.root / "src/was-full", b"file")
    make(dst / "with", b"was a file")
    make(dst / "link", b"was a file")
    (dst / "file").mkdir()
    (dst / "was-full/deeper").mkdir(parents=True)
    make(dst / "was-full/deeper/name", b"name")
    make(dst / "was-full/name", b"name")
    if not delete:
        shutil.rmtree(dst / "was-full")
    for path in (bench.root / "src", bench.root / "src/with", dst):
        os.utime(path, ns=(0, 0))
    check_itemized_as_by_rsync(bench, ways, "src/", "dst/", *delete)


@pytest.mark.needs("rsync")
def test_checksum_itemizes_content_whatever_shows_it_as_rsync_does(
    bench: Bench, ways: tuple[str, str]
) -> None:
    for name, data, time_ns in (
        ("same", b"x", 0),
        ("longer", b"longer", 0),
        ("later", b"y", 10**18),
        ("touched", b"x", 10**18),
        ("hidden", b"y", 0),
    ):
        make(bench.root / "src" / name, data)
        make(bench.served / "dst" / name, b"x")
        os.utime(bench.root / "src" / name, ns=(0, time_ns))
        os.utime(bench.served / "dst" / name, ns=(0, 0))
    for path in (bench.root / "src", bench.served / "dst"):
        os.utime(path, ns=(0, 0))
    check_itemized_as_by_rsync(bench, ways, "src/", "dst/", "-c")


def check_itemized_as_by_rsync(
    bench: Bench, ways: tuple[str, str], source: str, dest: str, *words: str
) -> None:
    """What both say, where rsync's dry run says another thing than rsync does."""
    subprocess.run(["cp", "-a", "served", "theirs"], cwd=bench.root, check=True)
    theirs = subprocess.run(
        ["rsync", "-aHi", *words, source, f"theirs/{dest}"],
        cwd=bench.root,
        capture_output=True,
        text=True,
        check=True,
    )
    ours = bench.run("sync", "-n", "-i", *words, f"{ways[0]}{source}", f"{ways[1]}{dest}")
    assert ours.stdout.replace("<", ">") == theirs.stdout


@pytest.mark.parametrize(
    "rules",
    [
        [],
        ["--exclude=z"],
        ["--exclude=doc"],
        ["--exclude=l/"],
        ["--delete", "--exclude=z"],
        ["--delete", "--exclude=l/"],
    ],
)
def test_a_directory_that_is_not_to_be_removed_stays_where_a_file_is_given(
    bench: Bench, ways: tuple[str, str], rules: list[str]
) -> None:
    make(bench.root / "src/in/l", b"a")
    make(bench.root / "src/other", b"other")
    (bench.root / "src/l").symlink_to("other")
    for path in ("l/z/doc", "in/l/z/doc"):
        make(bench.served / path, b"precious")
    for _ in range(2):
        done = bench.run("sync", *rules, f"{ways[0]}src/", ways[1], check=False)
        assert done.returncode == 23
        for path in ("l", "in/l"):
            assert f"filesync: '{path}' was left out: a directory" in done.stderr
            assert (bench.served / path / "z/doc").read_bytes() == b"precious"
        assert (bench.served / "other").read_bytes() == b"other"


def test_a_directory_that_may_go_makes_way(bench: Bench, ways: tuple[str, str]) -> None:
    make(bench.root / "src/l", b"a")
    make(bench.root / "src/empty", b"b")
    make(bench.served / "l/z/doc", b"gone")
    (bench.served / "empty").mkdir()
    done = bench.run("sync", "--exclude=*.o", f"{ways[0]}src/", ways[1], check=False)
    assert done.returncode == 23
    assert (bench.served / "empty").read_bytes() == b"b"
    bench.run("sync", "--delete", "--exclude=*.o", f"{ways[0]}src/", ways[1])
    assert tree_of(bench.served) == tree_of(bench.root / "src")


def test_a_directory_where_one_of_several_files_goes_keeps_no_other_from_it(
    bench: Bench, ways: tuple[str, str]
) -> None:
    for name in ("one", "two"):
        make(bench.root / "src" / name, b"a")
    make(bench.served / "one/doc", b"precious")
    files = [f"{ways[0]}src/{name}" for name in ("one", "two")]
    done = bench.run("sync", "--json", *files, ways[1], check=False)
    assert done.returncode == 23
    figures = json.loads(done.stdout)
    assert (figures["left_out"], figures["left_out_paths"]) == (1, ["one"])
    assert (bench.served / "one/doc").read_bytes() == b"precious"
    assert (bench.served / "two").read_bytes() == b"a"


@pytest.mark.needs("rsync")
@pytest.mark.parametrize("rules", [[], ["--delete"], ["--delete", "--exclude=kept"]])
@pytest.mark.parametrize("inside", ["", "gone", "empty/", "kept"])
def test_where_a_file_is_given_by_name_an_empty_directory_or_with_delete_any_makes_way(
    bench: Bench, ways: tuple[str, str], rules: list[str], inside: str
) -> None:
    make(bench.root / "src/one", b"a")
    (bench.root / "src/link").symlink_to("one")
    for name in ("one", "link"):
        for root in (bench.served, bench.root / "theirs"):
            (root / name / inside).mkdir(parents=True)
            if not inside.endswith("/") and inside:
                (root / name / inside).rmdir()
                (root / name / inside).write_bytes(b"precious")
            make(root / "other", b"not given")
    names = ("one", "link")
    words = ["rsync", "-a", *rules, *(f"src/{name}" for name in names), "theirs/"]
    theirs = subprocess.run(words, cwd=bench.root, check=False)
    words = [*rules, *(f"{ways[0]}src/{name}" for name in names), ways[1]]
    said = bench.run("sync", "-n", "-i", *words, check=False)
    done = bench.run("sync", "-i", *words, check=False)
    assert done.returncode == theirs.returncode
    assert kinds_below(bench.served) == kinds_below(bench.root / "theirs")
    assert (said.returncode, said.stdout) == (done.returncode, done.stdout)
    assert bench.run("sync", "-i", *words, check=False).stdout == ""


@pytest.mark.parametrize("delete", [[], ["--delete"]])
def test_the_first_of_two_sources_stands_and_a_second_run_changes_nothing(
    bench: Bench, ways: tuple[str, str], delete: list[str]
) -> None:
    for name, data in (("p", b"first"), ("q", b"the second")):
        make(bench.root / name / "a", data)
        make(bench.root / name / "d/b", data)
        make(bench.root / name / f"d/of {name}", data)
        os.link(bench.root / name / "a", bench.root / name / f"linked {name}")
        (bench.root / name / "d").chmod(0o750 if name == "p" else 0o705)
    make(bench.root / "p/file", b"first")
    make(bench.root / "q/file/in", b"the second")  # as in rsync, a directory always stands
    make(bench.root / "o/a", b"of all")
    sources = [f"{ways[0]}{path}" for path in ("o/a", "p/", "q/")]
    for _ in range(2):  # the second time the destination is not empty
        bench.run("sync", *delete, *sources, ways[1])
        assert (bench.served / "a").read_bytes() == b"of all"
        assert (bench.served / "d/b").read_bytes() == b"first"
        assert (bench.served / "file/in").read_bytes() == b"the second"
        assert stat.S_IMODE((bench.served / "d").stat().st_mode) == 0o750
        assert (bench.served / "linked q").read_bytes() == b"the second"
        assert sorted(os.listdir(bench.served / "d")) == ["b", "of p", "of q"]
        assert bench.run("sync", "-i", *delete, *sources, ways[1]).stdout == ""
        make(bench.served / "d/b", b"changed")
        make(bench.served / "d/of q", b"changed")


@pytest.mark.parametrize(
    "sources", [["file"], ["dir"], ["file", "dir"], ["file", "all/", "dir"], ["all/", "file"]]
)
def test_what_is_made_in_the_destination_changes_its_times_unless_a_source_gives_them(
    bench: Bench, ways: tuple[str, str], sources: list[str]
) -> None:
    for name in ("file", "dir/in", "all/other"):
        make(bench.root / name, b"new")
    make(bench.served / "file", b"old")
    os.utime(bench.root / "all", ns=(0, 10**18))
    os.utime(bench.served, ns=(0, 0))
    words = [*(f"{ways[0]}{source}" for source in sources), ways[1]]
    began_ns = time.time_ns() - 10**9  # the kernel's clock for files is coarser
    bench.run("sync", *words)
    made_ns = bench.served.stat().st_mtime_ns
    assert made_ns == 10**18 if "all/" in sources else made_ns > began_ns
    assert bench.run("sync", "-i", *words).stdout == ""
    assert bench.served.stat().st_mtime_ns == made_ns


@pytest.mark.parametrize("delete", [[], ["--delete"]])
@pytest.mark.parametrize(
    "order",
    [
        ["one/", "o/a", "two/", "sub"],
        ["sub", "two/", "one/"],
        ["one/x", "one/"],
        ["one/", "one/x", "two/x", "two/b"],
        ["o/x", "one/", "two/x"],
    ],
)
@pytest.mark.parametrize("is_there", [True, False])
def test_a_dry_run_of_several_sources_says_what_a_run_then_does_and_a_second_does_nothing(
    bench: Bench,
    ways: tuple[str, str],
    delete: list[str],
    order: list[str],
    is_there: bool,
) -> None:
    for name in ("one/x/a", "one/b", "two/x/c", "two/b", "two/d", "o/a", "two/a", "sub/in"):
        make(bench.root / name, name.encode())
    for name in ("o/x", "two/x/a"):  # what stands behind a directory, and behind a file
        make(bench.root / name, b"another")
    for name in ("one", "two"):
        os.utime(bench.root / name, ns=(0, 1_000_000_000))
    if is_there:
        for name in ("gone", "b", "x/gone", "d/gone"):
            make(bench.served / name, b"old")
    dest = ways[1] if is_there else f"{ways[1]}new"
    words = [*delete, *(f"{ways[0]}{source}" for source in order), dest]
    said = bench.run("sync", "-n", "-i", *words, check=False)
    done = bench.run("sync", "-i", *words, check=False)
    assert (said.returncode, said.stdout) == (done.returncode, done.stdout)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("*")]
    assert len(lines) == len(set(lines))
    again = bench.run("sync", "-i", *words, check=False)
    assert (again.returncode, again.stdout) == (done.returncode, "")


def test_a_dry_run_lists_an_empty_directory_of_1970_too(
    bench: Bench, ways: tuple[str, str]
) -> None:
    """It looks as a tree of nothing does."""
    (bench.root / "src").mkdir(mode=0o755)
    os.utime(bench.root / "src", (0, 0))
    for words in ([f"{ways[0]}src", ways[1]], [f"{ways[0]}src/", f"{ways[1]}new"]):
        said = bench.run("sync", "-n", "-i", *words)
        done = bench.run("sync", "-i", *words)
        assert said.stdout == done.stdout
        assert done.stdout.startswith("cd+++++++++ ")


def test_a_dry_run_says_what_would_be_left_out(bench: Bench, ways: tuple[str, str]) -> None:
    make(bench.root / "src/sub/l", b"a")
    make(bench.served / "src/sub/l/doc", b"precious")
    done = bench.run("sync", "--dry-run", f"{ways[0]}src", ways[1], check=False)
    assert done.returncode == 23
    assert "'src/sub/l' was left out" in done.stderr
    assert "sub/l" not in done.stdout


def test_what_no_scan_shows_is_in_the_way_in_a_dry_run_as_in_a_run(
    bench: Bench, ways: tuple[str, str]
) -> None:
    for name in ("in/socket", "in/excluded", "in/dir", "in/empty", "socket", "new"):
        make(bench.root / "src" / name, b"a")
        if name != "new":
            (bench.served / name).mkdir(parents=True)
    for name in ("in/socket", "socket"):
        with socket.socket(socket.AF_UNIX) as one, chdir(bench.served / name):
            one.bind("s")
    make(bench.served / "in/excluded/z", b"precious")
    make(bench.served / "in/dir/doc", b"precious")
    words = ["-i", "--exclude=z", "--exclude=dir/", f"{ways[0]}src/", ways[1]]
    said = bench.run("sync", "-n", *words, check=False)
    done = bench.run("sync", *words, check=False)
    assert (said.returncode, said.stdout, said.stderr) == (23, done.stdout, done.stderr)
    assert done.stderr.count("was left out: a directory") == 4
    given = [
        line.split()[1] for line in done.stdout.splitlines() if line.startswith((">", "<"))
    ]
    assert sorted(given) == ["in/empty", "new"]
    assert done.returncode == 23


def test_what_no_scan_shows_makes_way_for_a_directory_as_for_a_file(
    bench: Bench, ways: tuple[str, str]
) -> None:
    for name in ("excluded/a.c", "socket/a.c", "sub/excluded/a.c"):
        make(bench.root / "src" / name, name.encode())
    for name in ("excluded", "sub/excluded", "left.o"):
        make(bench.served / name, b"old")
    with socket.socket(socket.AF_UNIX) as one, chdir(bench.served):
        one.bind("socket")
    words = ["--include=*.c", "--include=*/", "--exclude=*", f"{ways[0]}src/", ways[1]]
    said = bench.run("sync", "-n", "-i", *words)
    done = bench.run("sync", "-i", *words)
    assert said.stdout == done.stdout
    assert (bench.served / "left.o").read_bytes() == b"old"
    assert kinds_below(bench.root / "src").items() <= kinds_below(bench.served).items()
    assert bench.run("sync", "-i", *words).stdout == ""
    make(bench.root / "src/renamed/a.c", b"renamed")
    shutil.copytree(bench.root / "src/renamed", bench.served / "before")
    with socket.socket(socket.AF_UNIX) as one, chdir(bench.served):
        one.bind("renamed")
    bench.run("sync", "--delete", f"{ways[0]}src/", ways[1])
    assert tree_of(bench.root / "src") == tree_of(bench.served)


def test_what_is_left_out_is_named_up_to_a_number(bench: Bench, ways: tuple[str, str]) -> None:
    for number in range(130):
        make(bench.root / f"src/f{number}", b"a")
        make(bench.served / f"f{number}/doc", b"precious")
    done = bench.run("sync", f"{ways[0]}src/", ways[1], check=False)
    assert done.returncode == 23
    assert done.stderr.count("was left out: ") == 100
    assert "30 more were left out" in done.stderr


def test_several_sources_go_to_one_destination(bench: Bench) -> None:
    fill(bench.root / "one", files=9)
    fill(bench.root / "two", files=9, seed=2)
    (bench.root / "notes").write_text("text")
    bench.sync("one", "two", "notes", "dst")
    assert sorted(os.listdir(bench.root / "dst")) == ["notes", "one", "two"]
    assert tree_of(bench.root / "dst/two") == tree_of(bench.root / "two")


def test_a_file_that_has_names_in_several_sources_of_one_directory_is_one_again(
    bench: Bench, ways: tuple[str, str]
) -> None:
    make(bench.root / "a/file", b"of all")
    for name in ("b/file", "single"):
        (bench.root / name).parent.mkdir(exist_ok=True)
        (bench.root / name).hardlink_to(bench.root / "a/file")
    words = [*(f"{ways[0]}{name}" for name in ("a", "b", "single")), ways[1]]
    for _ in range(2):
        bench.run("sync", *words)
        first = bench.served / "a/file"
        assert all(first.samefile(bench.served / name) for name in ("b/file", "single"))
        assert bench.run("sync", "-i", *words).stdout == ""
        (bench.served / "b/file").unlink()


def test_a_checksum_finds_what_no_time_shows(bench: Bench) -> None:
    for root in ("src", "dst"):
        (bench.root / root).mkdir()
    (bench.root / "src/file").write_text("right")
    bench.sync("src/", "dst")
    status = (bench.root / "dst/file").stat()
    bench.sync("src/", "dst")
    (bench.root / "dst/file").write_text("wrong")
    os.utime(bench.root / "dst/file", ns=(status.st_atime_ns, status.st_mtime_ns))
    bench.sync("--checksum", "src/", "dst")
    assert (bench.root / "dst/file").read_text() == "right"


def test_stats_are_a_few_lines(bench: Bench) -> None:
    fill(bench.root / "src", files=9)
    assert "Number of files transferred: " in bench.run("sync", "--stats", "src/", "dst").stdout


# --- with a server ----------------------------------------------------------------------------


def test_a_tree_is_taken_and_then_costs_next_to_nothing(bench: Bench) -> None:
    fill(bench.served / "tree")
    address = bench.serve()
    cold = bench.sync(f"{address}/tree/", "dst")
    assert tree_of(bench.root / "dst") == tree_of(bench.served / "tree")
    assert cold["wire_in"] > 1_000_000
    unchanged = bench.sync(f"{address}/tree/", "dst")
    assert unchanged["files"] == 0
    assert unchanged["wire_in"] + unchanged["wire_out"] < 10_000


def test_a_changed_file_costs_about_itself(bench: Bench) -> None:
    fill(bench.served / "tree", files=300)
    address = bench.serve()
    bench.sync(f"{address}/tree/", "dst")
    (bench.served / "tree/d5/f5").write_bytes(random.Random(9).randbytes(50_000))
    changed = bench.sync(f"{address}/tree/", "dst")
    assert tree_of(bench.root / "dst") == tree_of(bench.served / "tree")
    assert changed["files"] == 1
    assert changed["wire_in"] + changed["wire_out"] < 60_000


def test_a_tree_is_given_and_then_costs_next_to_nothing(bench: Bench) -> None:
    fill(bench.root / "src")
    address = bench.serve()
    given = bench.sync("src/", f"{address}/new")
    assert tree_of(bench.served / "new") == tree_of(bench.root / "src")
    assert given["wire_out"] > 1_000_000
    unchanged = bench.sync("src/", f"{address}/new")
    assert unchanged["wire_in"] + unchanged["wire_out"] < 10_000
    bench.sync("src", f"{address}/new")
    assert (bench.served / "new/src/d1/f1").exists()
    lines = bench.run("sync", "-n", "--delete", "src/", f"{address}/new").stdout
    assert "*deleting   src/" in lines.splitlines()
    bench.sync("--delete", "src/", f"{address}/new")
    assert tree_of(bench.served / "new") == tree_of(bench.root / "src")


def test_a_hard_link_that_is_scanned_before_its_groups_first_name_is_given(
    bench: Bench,
) -> None:
    """A directory's files are scanned before those of the directories in it."""
    (bench.root / "src/a").mkdir(parents=True)
    (bench.root / "src/a/first").write_text("text")
    os.link(bench.root / "src/a/first", bench.root / "src/zz")
    bench.sync("src/", f"{bench.serve()}/new")
    assert tree_of(bench.served / "new") == tree_of(bench.root / "src")


def test_one_file_is_taken_and_given(bench: Bench) -> None:
    (bench.served / "file").write_text("text")
    address = bench.serve()
    bench.sync(f"{address}/file", "here")
    bench.sync("here", f"{address}/there")
    assert (bench.served / "there").read_text() == "text"


def test_one_file_comes_once_under_whatever_name(bench: Bench) -> None:
    make(bench.root / "file", b"text")
    make(bench.served / "file", b"text")
    address = bench.serve()
    for words in (("file", "copy"), ("file", f"{address}/given"), (f"{address}/file", "taken")):
        first, second = (bench.run("sync", "-i", *words).stdout for _ in range(2))
        assert first.split()[1:] == ["file"]
        assert second == ""


def test_an_insertion_into_a_large_file_moves_little(bench: Bench) -> None:
    data = random.Random(5).randbytes(64 << 20)
    (bench.served / "tree").mkdir()
    (bench.served / "tree/image").write_bytes(data)
    address = bench.serve()
    bench.sync(f"{address}/tree/", "dst")
    inserted = random.Random(6).randbytes(1 << 20)
    (bench.served / "tree/image").write_bytes(data[: 32 << 20] + inserted + data[32 << 20 :])
    changed = bench.sync(f"{address}/tree/", "dst")
    assert tree_of(bench.root / "dst") == tree_of(bench.served / "tree")
    assert changed["wire_in"] + changed["wire_out"] < 2 << 20


@pytest.mark.needs("mount")
def test_an_empty_destination_that_nobody_can_write_is_named(
    bench: Bench, ways: tuple[str, str]
) -> None:
    fill(bench.root / "src")
    with mount("--bind", bench.served, bench.served):
        remount = ("mount", "-o", "remount,ro,bind", bench.served)
        subprocess.run(remount, check=True)
        done = bench.run("sync", "--json", f"{ways[0]}src/", ways[1], check=False)
    assert done.returncode == 23
    assert json.loads(done.stdout)["unwritable"] == {".": "Read-only file system"}
    assert list(bench.served.iterdir()) == []


def test_a_read_only_server_takes_nothing(bench: Bench) -> None:
    fill(bench.root / "src", files=10)
    address = bench.serve("--read-only")
    assert "read-only" in bench.fails("sync", "src/", f"{address}/new")
    assert os.listdir(bench.served) == []


@pytest.mark.parametrize("path", ["..", "../secret", "a/../../secret", "out", "out/secret"])
def test_nothing_outside_the_served_directory_is_reached(bench: Bench, path: str) -> None:
    (bench.root / "secret").mkdir()
    (bench.root / "secret/secret").write_text("secret")
    (bench.served / "a").mkdir()
    (bench.served / "out").symlink_to(bench.root / "secret")
    address = bench.serve()
    done = bench.run("sync", f"{address}/{path}/", "dst", check=False)
    assert done.returncode != 0
    assert not list(bench.root.glob("dst/**/secret"))
    fill(bench.root / "src", files=8)
    bench.fails("sync", "src/", f"{address}/{path}/")
    assert os.listdir(bench.root / "secret") == ["secret"]


def test_a_server_that_is_killed_is_a_sentence_and_the_next_sync_goes_on(bench: Bench) -> None:
    rng = random.Random(3)
    for number in range(2000):
        path = bench.served / "tree" / f"d{number % 50}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(40_000))
    address = bench.serve()
    client = subprocess.Popen(
        [*COMMAND, "sync", f"{address}/tree/", "dst"],
        env=bench.env,
        cwd=bench.root,
        stderr=subprocess.PIPE,
        text=True,
    )
    while client.poll() is None and not (bench.root / "dst/d3").is_dir():
        pass
    bench.kill_server()
    _, error = client.communicate(timeout=60)
    if client.returncode:
        assert error.startswith("filesync: error: ")
    there = sum(path.stat().st_size for path in bench.root.glob("dst/d*/f*"))
    address = bench.serve()
    rest = bench.sync(f"{address}/tree/", "dst")
    assert tree_of(bench.root / "dst") == tree_of(bench.served / "tree")
    assert rest["content_bytes"] <= 80_000_000 - there + 40_000


def test_a_served_directory_that_goes_is_a_sentence_until_it_is_there_again(
    bench: Bench,
) -> None:
    fill(bench.root / "src", files=8)
    address = bench.serve()
    bench.sync("src/", f"{address}/tree")
    bench.served.rename(bench.root / "aside")
    for change in (lambda: None, lambda: bench.served.write_text("no directory")):
        change()
        assert "'tree'" not in bench.fails("sync", f"{address}/tree/", "dst")
        assert repr(str(bench.served)) in bench.fails("sync", "src/", f"{address}/tree")
    bench.served.unlink()
    (bench.root / "aside").rename(bench.served)
    assert bench.sync("src/", f"{address}/tree")["files"] == 0
    bench.sync(f"{address}/tree/", "dst")
    assert tree_of(bench.root / "dst") == tree_of(bench.root / "src")


@pytest.mark.parametrize("is_there", [False, True])
def test_who_was_killed_while_giving_is_not_in_the_way_of_the_very_next_sync(
    bench: Bench, is_there: bool
) -> None:
    fill(bench.root / "src")
    address = bench.serve()
    given = bench.served / "given"
    if is_there:
        bench.sync("src/", f"{address}/given/")
    size = 48 << 20
    (bench.root / "src/large").write_bytes(random.Random(5).randbytes(size))
    words = ["sync", "--bwlimit", "20M", "src/", f"{address}/given/"]
    for part in (1, 2):
        giving = subprocess.Popen([*COMMAND, *words], env=bench.env, cwd=bench.root)
        while giving.poll() is None and bytes_below(given) < part * size // 4:
            pass
        giving.kill()
        assert giving.wait() == -signal.SIGKILL
    bench.sync("src/", f"{address}/given/")
    assert tree_of(given) == tree_of(bench.root / "src")


@pytest.mark.needs("mount")
@pytest.mark.parametrize("files", [0, 1])
def test_a_destination_without_any_room_is_named_as_it_was_asked_for(
    bench: Bench, files: int
) -> None:
    """Not by the names that only this program has for what it wanted to make there."""
    make(bench.root / "src/f", b"new")
    inodes = 2 + files  # the disk's root, the destination, and what is in it
    with tmpfs(bench.root / "disk", f"size=1m,nr_inodes={inodes}") as disk:
        (disk / "dst").mkdir()
        if files:
            make(disk / "dst/f", b"old")
        address = bench.serve(root=disk)
        for where, called in (("disk/dst", "disk/dst"), (f"{address}/dst", "dst")):
            said = bench.fails("sync", "src/", where)
            assert f"'{called}': No space left on device; make room" in said
        bench.kill_server()


def test_nobody_there_is_a_sentence(bench: Bench) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    assert "tcp://127.0.0.1" in bench.fails("sync", f"tcp://127.0.0.1:{port}/x", "dst")


@pytest.mark.parametrize("is_given", [False, True])
def test_bytes_are_limited_and_compressed_as_was_asked_for(
    bench: Bench, is_given: bool
) -> None:
    here, there = bench.root / "src", bench.served / "src"
    for root in (here, there):
        root.mkdir()
        (root / "text").write_text("the same line again\n" * 100_000)
    address = bench.serve()
    words = ("src/", f"{address}/dst") if is_given else (f"{address}/src/", "dst")
    plain = bench.sync("--compress", "none", "--bwlimit", "4M", *words)
    assert plain["wire_in"] + plain["wire_out"] > 2_000_000
    assert plain["seconds"] > 0.2
    words = (words[0], f"{words[1]}2")
    coded = bench.sync("-z", *words)
    assert coded["wire_in"] + coded["wire_out"] < 100_000


def test_what_is_given_is_itemized_and_dry_runs_change_nothing_on_a_server(
    bench: Bench,
) -> None:
    fill(bench.root / "src", files=9)
    address = bench.serve()
    listed = bench.run("sync", "-n", "src/", f"{address}/new").stdout.splitlines()
    assert not (bench.served / "new").exists()
    done = bench.run("sync", "-i", "src/", f"{address}/new").stdout.splitlines()
    assert listed == done
    assert "<f+++++++++ d0/f0" in done


# --- manifests --------------------------------------------------------------------------------


def test_a_manifest_is_written_shown_verified_and_compared(bench: Bench) -> None:
    fill(bench.root / "src", files=9)
    bench.run("manifest", "src", "-o", "first")
    assert "d0/f0" in bench.run("manifest", "show", "first").stdout
    bench.run("manifest", "verify", "first", "src")
    (bench.root / "src/d0/f0").write_bytes(b"edited")
    differs = bench.run("manifest", "verify", "first", "src", check=False)
    assert differs.returncode == 1
    assert "d0/f0" in differs.stdout + differs.stderr
    changes = bench.run("manifest", "diff", "first", "src", check=False)
    assert "d0/f0" in changes.stdout
    (bench.root / "broken").write_bytes((bench.root / "first").read_bytes()[:-9])
    assert "broken" in bench.fails("manifest", "show", "broken")


def test_a_document_of_a_tree_has_all_that_its_manifest_says(bench: Bench) -> None:
    src = bench.root / "src"
    (src / "d").mkdir(parents=True)
    (src / "d/f").write_bytes(b"content")
    os.link(src / "d/f", src / "d/g")
    os.setxattr(src / "d", "user.a", b"\xff")
    os.mkfifo(src / "fifo", 0o640)
    os.symlink(b"any\xffwhere", src / "link")
    for path in (src / "d/f", src / "d", src / "fifo", src / "link"):
        os.utime(path, ns=(0, 7 - 10**18), follow_symlinks=False)
    bench.run("manifest", "src", "-o", "written")
    said = bench.run("manifest", "show", "--json", "written").stdout
    assert said == bench.run("manifest", "show", "--json", "src").stdout
    document = json.loads(said)
    assert (document["names"], document["size"]) == (5, 14)
    at = {entry["path"]: entry for entry in document["entries"]}
    assert list(at) == ["d", "d/f", "d/g", "fifo", "link"]
    assert at["d"]["xattrs"] == {"user.a": "ff"}
    assert at["d"]["names"] == 2
    assert at["d/f"]["link"] == at["d/g"]["link"]
    assert at["d/f"]["digest"] == f"blake3:{blake3(b'content').hexdigest()}"
    assert at["fifo"]["mode"] == stat.S_IFIFO | 0o640
    assert os.fsencode(at["link"]["target"]) == b"any\xffwhere"
    assert {entry["mtime_ns"] for entry in at.values()} == {7 - 10**18}
    shown = bench.run("manifest", "show", "written").stdout
    assert "prw-r-----" in shown
    assert shown.count(" 1938-04-24 22:13:20 ") == 5


def test_a_manifest_goes_through_a_pipe(bench: Bench) -> None:
    fill(bench.root / "src")
    bench.run("manifest", "src", "-o", "file")
    data = (bench.root / "file").read_bytes()
    pipe = bench.root / "pipe"
    os.mkfifo(pipe)
    for words in (["verify", "-", "src"], ["diff", "src", "-"], ["show", "-"]):
        done = subprocess.run(
            [*COMMAND, "manifest", *words],
            env=bench.env,
            cwd=bench.root,
            input=data,
            capture_output=True,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert words[0] != "show" or b"d0/f0" in done.stdout
        with ThreadPoolExecutor(1) as pool:
            pool.submit(pipe.write_bytes, data)
            words[words.index("-")] = "pipe"
            assert bench.run("manifest", *words).stdout == done.stdout.decode()


def test_what_is_no_file_is_written_to_and_a_link_followed(bench: Bench) -> None:
    """A device or a pipe must not be replaced by a file, least of all as root."""
    make(bench.root / "src/a", b"a")
    bench.run("manifest", "src", "-o", "file")
    pipe = bench.root / "pipe"
    os.mkfifo(pipe)
    (bench.root / "link").symlink_to("behind")
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_bytes)
        bench.run("manifest", "src", "-o", "pipe")
        assert stat.S_ISFIFO(pipe.lstat().st_mode)
        assert read.result(20) == (bench.root / "file").read_bytes()
    bench.run("manifest", "src", "-o", "link")
    assert os.readlink(bench.root / "link") == "behind"
    bench.run("manifest", "verify", "link", "src")
    for words in ("", ".", "/", "src"):
        assert "is a directory; name a file" in bench.fails("manifest", "src", "-o", words)


def test_a_file_that_is_no_manifest_is_not_taken_for_a_tree(bench: Bench) -> None:
    make(bench.root / "src/a", b"a")
    for words in (["show", "src/a"], ["diff", "src/a", "src"], ["verify", "src/a", "src"]):
        assert "'src/a': it is no manifest" in bench.fails("manifest", *words)


def test_patterns_leave_out_what_matches_on_both_sides_of_a_comparison(bench: Bench) -> None:
    fill(bench.root / "src")
    bench.run("manifest", "src", "-o", "all")
    bench.run("manifest", "src", "-o", "part", "--exclude=/d2", "--exclude=f3*")
    make(bench.root / "src/d2/new", b"new")
    words = ["--exclude=/d2", "--exclude=f3*"]
    for name in ("all", "part"):
        bench.run("manifest", "verify", name, "src", *words)
        bench.run("manifest", "diff", "src", name, *words)
    shown = bench.run("manifest", "show", "all", *words).stdout
    assert shown == bench.run("manifest", "show", "part").stdout
    assert shown == bench.run("manifest", "show", "src", *words).stdout


# --- the command itself -----------------------------------------------------------------------


def into(output: int | None, bench: Bench, *words: str) -> tuple[int, str]:
    """Run with ``output`` as standard output, or without any; return the code and what was said."""
    close = (lambda: os.close(1)) if output is None else None
    done = subprocess.run(
        [*COMMAND, *words],
        env=bench.env,
        cwd=bench.root,
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        preexec_fn=close,
    )
    return done.returncode, done.stderr


SAYING = [["-v"], ["-n"], ["--json"], ["--stats"]]


@pytest.mark.parametrize("words", SAYING)
def test_what_cannot_be_said_is_standard_outputs_fault(
    bench: Bench, ways: tuple[str, str], words: list[str]
) -> None:
    fill(bench.root / "src")
    with open("/dev/full", "wb") as full:
        said = into(full.fileno(), bench, "sync", *words, f"{ways[0]}src/", ways[1])
    assert said == (1, "filesync: error: standard output: No space left on device\n")
    with open("/dev/full", "wb") as full:
        said = into(full.fileno(), bench, "manifest", "show", "src")
    assert said == (1, "filesync: error: standard output: No space left on device\n")


@pytest.mark.parametrize("words", SAYING)
def test_who_is_not_read_any_more_ends_without_a_word(
    bench: Bench, ways: tuple[str, str], words: list[str]
) -> None:
    fill(bench.root / "src")
    reader, writer = os.pipe()
    os.close(reader)
    assert into(writer, bench, "sync", *words, f"{ways[0]}src/", ways[1]) == (1, "")
    assert into(writer, bench, "manifest", "show", "src") == (1, "")
    os.close(writer)


def test_without_standard_output_a_sync_is_done_all_the_same(
    bench: Bench, ways: tuple[str, str]
) -> None:
    fill(bench.root / "src")
    assert into(None, bench, "sync", "-v", "--stats", f"{ways[0]}src/", ways[1]) == (0, "")
    assert tree_of(bench.served) == tree_of(bench.root / "src")


def test_names_are_listed_as_they_are_where_the_locale_has_not_their_letters(
    bench: Bench,
) -> None:
    make(bench.root / "src/\u65e5\u672c", b"text")
    env = bench.env | {"PYTHONIOENCODING": "latin-1"}  # what a locale of that charset does
    for words in (["sync", "-v", "src/", "dst"], ["manifest", "show", "src"]):
        # A shell starts it: a fork would have been started in another locale.
        command = ["sh", "-c", 'exec "$@"', "sh", *COMMAND, *words]
        done = subprocess.run(command, env=env, cwd=bench.root, capture_output=True, check=True)
        assert "\u65e5\u672c\n".encode() in done.stdout
    assert tree_of(bench.root / "dst") == tree_of(bench.root / "src")


def test_progress_on_a_terminal_is_what_has_come_and_no_total_that_nobody_knows(
    bench: Bench,
) -> None:
    make(bench.root / "file", bytes(3 << 20))
    ours, theirs = os.openpty()
    command = [*UNCLONED, "sync", "--progress", "--bwlimit=2M", "file", "dst/"]
    env = bench.env | {"TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "80"}
    process = subprocess.Popen(command, env=env, cwd=bench.root, stderr=theirs)
    os.close(theirs)
    shown = b""
    with suppress(OSError), open(ours, "rb", buffering=0) as terminal:  # EIO is its end
        while some := terminal.read(1 << 16):
            shown += some
    assert process.wait() == 0
    assert re.search(rb" 0 files 2\.1 MB ", shown)


def test_help_shows_the_commands_and_examples(bench: Bench) -> None:
    help = bench.run("--help").stdout
    assert "sync" in help
    assert "serve" in help
    assert "filesync sync" in bench.run("sync", "--help").stdout
    assert "filesync serve" in bench.run("serve", "--help").stdout


def test_the_version_is_shown(bench: Bench) -> None:
    assert bench.run("--version").stdout.startswith("filesync")


@pytest.mark.parametrize(
    "arguments",
    [
        ["sync"],
        ["synk"],
        ["sync", "--what", "a", "b"],
        ["sync", "tcp://a:1/x", "tcp://b:2/y"],
        ["sync", "ftp://a/x", "b"],
        ["serve", ".", "--listen", "tcp://0.0.0.0:0"],
        ["sync", "tcp://*:80/x", "d"],
        ["sync", "tcp://a\x01b:80/x", "d"],
        ["sync", "--bwlimit", "9" * 400, "d/", "e"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(bench: Bench, arguments: list[str]) -> None:
    done = bench.run(*arguments, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_an_interrupt_is_exit_code_130(bench: Bench) -> None:
    # A listener that never answers: the sync waits for its greeting.
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        waiting = subprocess.Popen(
            [*COMMAND, "sync", f"tcp://127.0.0.1:{port}/x", "dst"],
            env=bench.env,
            cwd=bench.root,
            stderr=subprocess.PIPE,
            text=True,
        )
        with silent.accept()[0]:
            waiting.send_signal(signal.SIGINT)
            _, error = waiting.communicate(timeout=30)
    assert waiting.returncode == 130, error
    assert "Traceback" not in error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_local_sync_that_is_ended_leaves_no_temporary_files(
    bench: Bench, number: signal.Signals
) -> None:
    (bench.root / "src").mkdir()
    (bench.root / "src/large").write_bytes(random.Random(1).randbytes(4_000_000))
    (bench.root / "dst").mkdir()
    # A minute's work.
    words = ["sync", "--bwlimit", "64", "src/", "dst/"]
    with subprocess.Popen([*UNCLONED, *words], env=bench.env, cwd=bench.root) as ended:
        try:
            while not any((bench.root / "dst").iterdir()):
                assert ended.poll() is None
                time.sleep(0.01)
            ended.send_signal(number)
            code = ended.wait(timeout=30)
        finally:
            ended.kill()
    assert code == (130 if number == signal.SIGINT else -number)
    assert list((bench.root / "dst").iterdir()) == []


@pytest.mark.parametrize("far", [False, True])
def test_a_background_job_that_ignores_interrupts_goes_on(bench: Bench, far: bool) -> None:
    for number in range(10):
        make(bench.root / f"src/{number}", random.Random(number).randbytes(30_000))
    address, dest = (bench.serve(), bench.served) if far else ("", bench.root)
    words = ["--bwlimit", "100", "src/", f"{address}/dst/" if far else "dst/"]
    with subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *COMMAND, "sync", *words],
        env=bench.env,
        cwd=bench.root,
    ) as job:
        while not (dest / "dst").exists():
            assert job.poll() is None
            time.sleep(0.01)
        job.send_signal(signal.SIGINT)
        assert job.wait(timeout=60) == 0
    assert (dest / "dst/9").read_bytes() == (bench.root / "src/9").read_bytes()


@pytest.mark.parametrize("far", [False, True])
def test_who_names_a_place_whose_parent_is_not_there_is_told_to_make_it(
    bench: Bench, far: bool
) -> None:
    make(bench.root / "src/f", b"1")
    place = f"{bench.serve()}/no/dst" if far else "no/dst"
    for source in ("src/", "src", "src/f"):
        done = bench.run("sync", source, place, check=False)
        assert done.returncode == 1
        assert "'no' is not there; make it first" in done.stderr


@pytest.mark.parametrize("far", [False, True])
def test_who_names_a_place_below_a_file_is_told_that_this_is_no_directory(
    bench: Bench, far: bool
) -> None:
    make(bench.root / "src/f", b"1")
    make((bench.served if far else bench.root) / "file", b"2")
    place = f"{bench.serve()}/file/dst" if far else "file/dst"
    for source in ("src/", "src", "src/f"):
        for dry in ([], ["-n"]):
            done = bench.run("sync", *dry, source, place, check=False)
            assert done.returncode == 1
            assert re.search("'file(/dst)?' is not a directory\n", done.stderr), done.stderr


def test_who_names_what_is_behind_a_link_is_told_that_a_server_follows_none(
    bench: Bench,
) -> None:
    make(bench.served / "there/f", b"1")
    (bench.served / "link").symlink_to("there")
    server = bench.serve()
    for source in ("link/", "link/f"):
        done = bench.run("sync", f"{server}/{source}", "dst", check=False)
        assert done.returncode == 23
        assert "symbolic links (a server follows none); it was left out" in done.stderr
    for place in ("link/", "link/new"):
        done = bench.run("sync", f"{bench.root}/", f"{server}/{place}", check=False)
        assert done.returncode == 1
        assert "it leads over a link, and none is followed here" in done.stderr
    assert [path.name for path in (bench.served / "there").iterdir()] == ["f"]


def test_who_loses_its_server_midway_is_told_to_run_again(bench: Bench) -> None:
    (bench.root / "src").mkdir()
    (bench.root / "src/large").write_bytes(random.Random(1).randbytes(4_000_000))
    words = ["sync", "--bwlimit", "64", "src/", f"{bench.serve()}/dst/"]
    with subprocess.Popen(
        [*COMMAND, *words], env=bench.env, cwd=bench.root, stderr=subprocess.PIPE, text=True
    ) as losing:
        try:
            while not any(bench.served.glob("dst/.filesync*")):
                assert losing.poll() is None
                time.sleep(0.01)
            bench.kill_server()
            error = losing.communicate(timeout=30)[1]
        finally:
            losing.kill()
    assert losing.returncode == 1
    assert "; run again: what has come whole stays" in error


def test_a_traceback_is_shown_when_asked_for(bench: Bench) -> None:
    bench.env["FILESYNC_DEBUG"] = "1"
    make(bench.root / "src", b"1")
    done = bench.run("sync", "src", "no/where/dst", check=False)
    assert "Traceback" in done.stderr
    assert "PathMissing" in done.stderr


def test_names_that_only_look_like_ours_are_synced_and_left_alone(bench: Bench) -> None:
    (bench.root / "src").mkdir()
    (bench.root / "src/.filesync-notes").write_text("mine")
    (bench.root / "dest/.filesync-dir").mkdir(parents=True)
    (bench.root / "dest/.filesync-dir/file").write_text("mine, too")
    bench.sync("src/", "dest")
    assert (bench.root / "dest/.filesync-notes").read_text() == "mine"
    assert (bench.root / "dest/.filesync-dir/file").read_text() == "mine, too"


def test_a_local_sync_keeps_to_a_rate_and_takes_what_rsync_users_type(bench: Bench) -> None:
    (bench.root / "src").mkdir()
    for number in range(4):
        (bench.root / f"src/{number}").write_bytes(bytes([number]) * 100_000)
    started = time.monotonic()
    bench.sync("-a", "--bwlimit", "400KB", "src/", "dest")
    # The last file need not be waited for.
    assert time.monotonic() - started > 0.7
    assert tree_of(bench.root / "dest") == tree_of(bench.root / "src")


def test_a_link_to_a_directory_is_a_link_unless_a_slash_follows(bench: Bench) -> None:
    (bench.served / "d").mkdir()
    (bench.served / "d/file").write_text("text")
    (bench.served / "to-d").symlink_to("d")
    for source in (str(bench.served), bench.serve()):
        bench.sync(f"{source}/to-d", "out/")
        assert os.readlink(bench.root / "out/to-d") == "d"
        (bench.root / "out/to-d").unlink()
    bench.sync(f"{bench.served}/to-d/", "inside")
    assert (bench.root / "inside/file").read_text() == "text"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["sync", "--exclude-from=-", "src/", "to"],
            "the patterns in - cannot be read: Bad file",
        ),
        (["serve", "--stdio"], "--stdio without a standard input serves nobody"),
    ],
)
def test_who_is_to_read_a_standard_input_that_is_not_there_says_so(
    bench: Bench, words: list[str], said: str
) -> None:
    fill(bench.root / "src")
    command = ["sh", "-c", 'exec "$@" <&-', "sh", *COMMAND, *words]
    done = subprocess.run(
        command, cwd=bench.root, env=bench.env, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert f"rror: {said}" in done.stderr
    assert not (bench.root / "to").exists()


@pytest.mark.parametrize("descriptor", [0, 1, 2])
def test_who_is_started_without_a_standard_descriptor_syncs_all_the_same(
    bench: Bench, descriptor: int
) -> None:
    fill(bench.root / "src")
    script = f'exec "$@" {descriptor}>&-'
    words = ["sh", "-c", script, "sh", *COMMAND, "sync", "src/", "to"]
    done = subprocess.run(words, cwd=bench.root, env=bench.env, check=False)
    assert done.returncode == 0
    assert sorted(os.listdir(bench.root / "to")) == sorted(os.listdir(bench.root / "src"))
