"""Sources that change while they are read: what arrives was there, whole, at some time."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conformance.transfer.conftest import Stage
from tests.conformance.transfer.look import differences, look
from tests.conformance.transfer.test_kinds import make
from tests.conformance.transfer.tools import Claim, Done, Tool, claimants, every_tool

FILES = 48
FILE_BYTES = 256 << 10
RATE = "32M"
TRIES = 10


def truncate(path: Path) -> None:
    os.truncate(path, 100)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more" * 1000)


def rewrite(path: Path) -> None:
    """Change the content and nothing that a size or a time could show."""
    status = path.stat()
    with path.open("r+b") as file:
        file.write(b"others")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"another file" * 100)
    other.rename(path)


def delete(path: Path) -> None:
    path.unlink()


def become_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def become_directory(path: Path) -> None:
    path.unlink()
    make(path / "in", b"inside")


def become_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def lose_directory(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()


CHANGES = [
    truncate,
    grow,
    rewrite,
    replace,
    delete,
    become_fifo,
    become_directory,
    become_link,
    lose_directory,
]


def fill(root: Path, *lasts: str) -> None:
    """Make a tree that takes a while; ``lasts`` are read last, and too large to be sent from memory."""
    for number in range(FILES):
        make(root / f"d{number % 4}/f{number}", os.urandom(FILE_BYTES))
    for name in lasts:
        make(root / name / "file", os.urandom(1024) * 1100)


def has_begun(dst: Path) -> bool:
    """Say whether a file is there."""
    for number in range(4):
        with suppress(FileNotFoundError):
            if os.listdir(dst / f"d{number}"):
                return True
    return False


def run_and_change(
    tool: Tool, stage: Stage, changes: Mapping[str, Callable[[Path], None]]
) -> tuple[Done, bool]:
    """Sync, and change some files once another has arrived; say whether all that was in time."""
    running = tool.start(stage.src, stage.dst, rate=RATE)
    while not running.is_over and not has_begun(stage.dst):
        pass
    running.process.send_signal(signal.SIGSTOP)
    is_in_time = True
    for name, change in changes.items():
        is_in_time &= not (stage.dst / name / "file").exists()
        change(stage.src / name / "file")
    running.process.send_signal(signal.SIGCONT)
    return running.wait(), is_in_time


@claimants(Claim.REREADS)
@pytest.mark.parametrize("change", [change for change in CHANGES if change is not grow])
def test_a_source_that_changes_once_is_read_again(
    tool: Tool, stage: Stage, change: Callable[[Path], None]
) -> None:
    # Some tools begin at one end, some at the other.
    name = "0" if tool.reads_backwards else "z"
    for _ in range(TRIES):
        fill(stage.src, name)
        done, is_in_time = run_and_change(tool, stage, {name: change})
        assert done.code == 0, done
        if is_in_time and differences(stage.src, stage.dst) == []:
            return
        # It was read before it changed: so it is what it was, and the next run sees that.
        tool.must_sync(stage.src, stage.dst)
        assert differences(stage.src, stage.dst) == []
        for root in (stage.src, stage.dst):
            subprocess.run(["rm", "-rf", str(root)], check=True)
    pytest.fail("the source never changed in time")


@claimants(Claim.REREADS)
def test_of_a_source_that_grows_what_it_was_arrives(tool: Tool, stage: Stage) -> None:
    name = "0" if tool.reads_backwards else "z"
    fill(stage.src, name)
    before = (stage.src / name / "file").read_bytes()
    done, _ = run_and_change(tool, stage, {name: grow})
    assert done.code == 0, done
    after = (stage.src / name / "file").read_bytes()
    assert (stage.dst / name / "file").read_bytes() in (before, after)
    tool.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []


@every_tool
def test_what_arrives_of_changing_sources_is_never_a_mixture(tool: Tool, stage: Stage) -> None:
    changes = {f"z{number}": change for number, change in enumerate(CHANGES)}
    if not tool.is_ours:
        # It opens what it took for a file, and waits for ever for the FIFO's other end.
        changes = {name: one for name, one in changes.items() if one is not become_fifo}
    fill(stage.src, *changes)
    before = look(stage.src)
    done, _ = run_and_change(tool, stage, changes)
    after, arrived = look(stage.src), look(stage.dst)
    assert done.code in (0, 23, 24), done
    for path, seen in arrived.items():
        if seen.kind == "file":
            assert seen.what in [tree[path].what for tree in (before, after) if path in tree]
    steady = {path: seen for path, seen in after.items() if path[:1] == b"d"}
    assert {path: arrived.get(path) for path in steady} == steady
    tool.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []


_APPENDER = """
import itertools, os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
print(flush=True)
for number in itertools.count():
    os.write(fd, b"line %d\\n" % number)
"""
_SCRIBBLER = """
import os, random, sys
fd = os.open(sys.argv[1], os.O_WRONLY)
size = os.fstat(fd).st_size
print(flush=True)
while True:
    os.pwrite(fd, os.urandom(9), random.randrange(size))
    os.pwrite(fd, os.urandom(9), size)
    size += 9
"""


@contextmanager
def writing(program: str, path: Path) -> Iterator[None]:
    """Have somebody write to a file all the time."""
    command = [sys.executable, "-c", program, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.kill()
        process.communicate()


@every_tool
def test_a_file_that_never_rests_keeps_no_other_from_arriving(tool: Tool, stage: Stage) -> None:
    log = make(stage.src / "m/log", b"first line\n")
    for name in "amz":
        make(stage.src / name / "file", name.encode() * 100_000)
    with writing(_APPENDER, log):
        done = tool.sync(stage.src, stage.dst)
    assert done.code in (0, 23, 24), done
    for name in "amz":
        assert (stage.dst / name / "file").read_bytes() == name.encode() * 100_000
    arrived = stage.dst / "m/log"
    if arrived.exists():
        assert log.read_bytes().startswith(arrived.read_bytes())
    if done.code:
        assert "m/log" in done.err
        assert not tool.is_ours or "run again" in done.err
    tool.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []


@every_tool
def test_what_stands_for_a_file_that_never_rests_is_not_deleted(
    tool: Tool, stage: Stage
) -> None:
    log = make(stage.src / "log", b"first line\n")
    tool.must_sync(stage.src, stage.dst)
    make(stage.src / "new", b"1")
    with writing(_APPENDER, log):
        done = tool.sync(stage.src, stage.dst)
    assert done.code in (0, 23, 24), done
    assert (stage.dst / "log").read_bytes().startswith(b"first line\n")
    assert (stage.dst / "new").read_bytes() == b"1"


@claimants(Claim.REREADS)
def test_a_large_file_to_which_is_only_appended_arrives(tool: Tool, stage: Stage) -> None:
    log = make(stage.src / "log", os.urandom(8 << 20))
    with writing(_APPENDER, log):
        for _ in range(2):
            tool.must_sync(stage.src, stage.dst)
            arrived = (stage.dst / "log").read_bytes()
            assert len(arrived) >= 8 << 20
            assert log.read_bytes().startswith(arrived)
    tool.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []


@claimants(Claim.REREADS)
@pytest.mark.parametrize("size", [100_000, 8 << 20])
def test_what_changes_while_it_grows_keeps_no_other_from_arriving(
    tool: Tool, stage: Stage, size: int
) -> None:
    database = make(stage.src / "m/database", os.urandom(size))
    for name in "az":
        make(stage.src / name / "file", name.encode() * 100_000)
    with writing(_SCRIBBLER, database):
        done = tool.sync(stage.src, stage.dst)
    assert done.code in (0, 24), done
    assert done.code == 0 or "m/database" in done.err
    for name in "az":
        assert (stage.dst / name / "file").read_bytes() == name.encode() * 100_000
    tool.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []
