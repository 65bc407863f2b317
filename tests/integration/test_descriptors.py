"""Commands that may have few files open at once."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from filesync.disk.scanning.scan import scan
from filesync.errors import Unreadable
from filesync.manifest import MemoryNodes
from filesync.process.descriptors import NEEDED
from filesync.transfer.receive.fetch import SMALL_BYTES
from tests.integration.fewdescriptors import few_descriptors

COMMAND = [sys.executable, "-m", "filesync"]
NOBODY = "tcp://127.0.0.1:9"


def limited(soft: int, hard: int) -> Callable[[], None]:
    """Return what a child runs first."""
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def run(
    root: Path, *words: str | Path, soft: int, hard: int
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        cwd=root,
        env=os.environ | {"XDG_CACHE_HOME": str(root / "cache")},
        preexec_fn=limited(soft, hard),
        capture_output=True,
        text=True,
        timeout=60,
    )


def fill(root: Path, *, directories: int) -> None:
    for number in range(directories):
        path = root / f"d{number}" / "e"
        path.mkdir(parents=True)
        (path / "file").write_text(str(number))


@pytest.mark.parametrize("most", [8, 12, 30, NEEDED - 1])
@pytest.mark.parametrize(
    "words",
    [
        ["sync", "src/", "dst"],
        ["sync", "src/", f"{NOBODY}/dst"],
        ["sync", f"{NOBODY}/src/", "dst"],
        ["serve", ".", "--listen", "tcp://127.0.0.1:0"],
        ["manager", "--state", "state", "--listen", "tcp://127.0.0.1:0"],
        ["worker", "--manager", NOBODY, "--listen", "tcp://127.0.0.1:0", "--state", "state"],
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_too_few_are_a_sentence_that_says_what_to_do(
    tmp_path: Path, most: int, words: list[str]
) -> None:
    fill(tmp_path / "src", directories=1)
    done = run(tmp_path, *words, soft=most, hard=most)
    assert done.returncode == 1
    assert done.stderr == (
        f"filesync: error: only {most} files may be open at once, and {NEEDED} are needed; raise "
        "that limit with `ulimit -n 1024`, as root where that is refused\n"
    )
    assert not (tmp_path / "dst").exists()


@contextmanager
def serving(root: Path, *, soft: int, hard: int) -> Iterator[str]:
    """Serve ``root`` with so few; give the address."""
    server = subprocess.Popen(
        [*COMMAND, "serve", str(root), "--listen", "tcp://127.0.0.1:0", "--until-eof"],
        preexec_fn=limited(soft, hard),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    yield server.stdout.readline().strip()
    server.communicate(timeout=20)
    assert server.returncode == 0


@pytest.mark.parametrize(
    ("soft", "hard"), [(20, 1024), (NEEDED, NEEDED)], ids=["raised", "enough"]
)
def test_what_is_enough_is_enough_for_many_directories(
    tmp_path: Path, soft: int, hard: int
) -> None:
    fill(tmp_path / "src", directories=200)
    (tmp_path / "src/large").write_bytes(os.urandom(5 << 20))
    with serving(tmp_path, soft=soft, hard=hard) as address:
        ways = (("src/", "one"), ("one/", f"{address}/two"), (f"{address}/two/", "three"))
        for source, dest in ways:
            done = run(tmp_path, "sync", source, dest, soft=soft, hard=hard)
            assert (done.returncode, done.stderr) == (0, "")
    tree = scan(tmp_path / "src", MemoryNodes()).tree
    assert scan(tmp_path / "three", MemoryNodes()).tree == tree


def test_what_is_enough_is_enough_for_many_large_files_new_or_edited(tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.mkdir()
    for number in range(400):
        (src / f"f{number}").write_bytes(os.urandom(SMALL_BYTES + 1))
    with serving(tmp_path, soft=NEEDED, hard=NEEDED) as address:
        for _ in range(2):
            done = run(tmp_path, "sync", "src/", f"{address}/dst", soft=NEEDED, hard=NEEDED)
            assert (done.returncode, done.stderr) == (0, "")
            trees = [scan(tmp_path / name, MemoryNodes()).tree for name in ("src", "dst")]
            assert trees[0] == trees[1]
            for number in range(100):
                with (src / f"f{number}").open("r+b") as file:
                    for at in range(0, SMALL_BYTES, SMALL_BYTES // 8):
                        file.seek(at)
                        file.write(b"edited")


@pytest.mark.parametrize("keep", [False, True])
def test_a_scan_that_runs_out_of_them_takes_nothing_for_unreadable(
    tmp_path: Path, keep: bool
) -> None:
    fill(tmp_path / "src", directories=3)
    with (
        few_descriptors(4),
        pytest.raises(Unreadable, match=r"Too many open files; raise .* `ulimit -n`"),
    ):
        scan(tmp_path / "src", MemoryNodes(), skip_unreadable=True, keep_unreadable=keep)
