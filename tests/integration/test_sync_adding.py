"""What is new comes while the source is still scanned, also to where something is."""

import asyncio
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from filesync.digest import Digest, digest_of
from filesync.disk.reserved import PARTIAL_NAME
from filesync.disk.scanning.statcache import FINE_SLACK_NS
from filesync.manifest import Manifest
from filesync.sync.options import Options
from filesync.sync.remote import nodes
from filesync.sync.saying.stats import SyncStats
from filesync.transfer.send.fresh import Fresh
from tests.integration.test_sync_plane import tree_of
from tests.integration.ways import Way, given, taken

PATIENCE_S = 20.0
LARGE = 3 << 20
either = pytest.mark.parametrize("way", [given, taken])
Noting = Callable[[Fresh, bytes, bytes | None, Digest], None]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No scan is too short for anything to be added meanwhile."""
    for module in ("giving", "taking"):
        monkeypatch.setattr(f"filesync.sync.remote.{module}.ADD_AFTER_S", 0.001)
    monkeypatch.setattr("filesync.sync.remote.telling.PACE_S", 0.001)


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[bytes], None]], None]:
    """Returns what has a function called when a directory of the source was scanned, before the next one is."""
    real: Noting = Fresh.note

    def watch(call: Callable[[bytes], None]) -> None:
        def note(self: Fresh, path: bytes, old: bytes | None, tree: Digest) -> None:
            real(self, path, old, tree)
            call(path)

        monkeypatch.setattr(Fresh, "note", note)

    return watch


Watch = Callable[[Callable[[bytes], None]], None]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "dest", {"old/keep": b"kept", "stray": b"s"})
    write(tmp_path / "src", {"old/keep": b"kept", "stray": b"s"})
    return tmp_path


def write(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    time.sleep(1.5e-9 * FINE_SLACK_NS)  # what has just changed is not noted


def run(way: Way, root: Path, *, delete: bool = True) -> SyncStats:
    options = Options(delete=delete, caches=root / "client")
    return asyncio.run(way(root, options, caches=root / "server"))


def await_file(path: Path, content: bytes) -> None:
    until = time.monotonic() + PATIENCE_S
    while not (path.exists() and path.read_bytes() == content):
        assert time.monotonic() < until, f"{path} has not come"
        time.sleep(0.002)


@either
def test_what_is_new_has_come_before_the_scan_ends(way: Way, root: Path, noted: Watch) -> None:
    large = os.urandom(LARGE)
    new = {"a/b/f": b"f", "a/large": large, "a/b/g": b"g", "old/more": b"more", "z/f": b"z"}
    write(root / "src", new)

    def wait(path: bytes) -> None:
        if path == b"z":
            for name in ("a/b/f", "a/large", "a/b/g", "old/more"):
                await_file(root / "dest" / name, new[name])

    noted(wait)
    stats = run(way, root)
    assert tree_of(root / "dest") == tree_of(root / "src")
    assert (stats.created, stats.deleted, stats.files) == (8, 0, len(new))
    again = run(way, root)
    assert (again.files, again.created, again.deleted) == (0, 0, 0)


@either
def test_directories_above_what_has_come_are_nobody_elses_until_they_are_done(
    way: Way, root: Path, noted: Watch
) -> None:
    write(root / "src", {"a/b/f": b"f", "a/c/g": b"g"})
    (root / "src/a").chmod(0o755)
    modes: list[int] = []

    def wait(path: bytes) -> None:
        if path == b"a/c":
            await_file(root / "dest/a/b/f", b"f")
            modes.append((root / "dest/a").stat().st_mode & 0o777)

    noted(wait)
    run(way, root)
    assert modes == [0o700]
    assert tree_of(root / "dest") == tree_of(root / "src")


@either
def test_what_was_renamed_is_not_copied(way: Way, root: Path, noted: Watch) -> None:
    write(root / "dest", {"was/f": b"f" * 1000, "was/g": b"g" * 1000})
    write(root / "src", {"a/n": b"n", "now/f": b"f" * 1000, "now/g": b"g" * 1000, "z/f": b"z"})
    inode = (root / "dest/was/f").stat().st_ino

    def wait(path: bytes) -> None:
        if path == b"z":
            await_file(root / "dest/a/n", b"n")
            time.sleep(0.1)

    noted(wait)
    run(way, root)
    assert (root / "dest/now/f").stat().st_ino == inode
    assert tree_of(root / "dest") == tree_of(root / "src")


@either
def test_what_changes_before_it_has_come_comes_in_the_end(
    way: Way, root: Path, noted: Watch
) -> None:
    write(root / "src", {"a/f": b"f" * LARGE, "m/f": b"m" * 100, "z/f": b"z"})

    def change(path: bytes) -> None:
        if path == b"a":
            (root / "src/a/f").write_bytes(b"other" * 1000)
        if path == b"z":
            time.sleep(0.1)

    noted(change)
    run(way, root)  # it may be passed over, and said so: nothing else is lost
    assert (root / "dest/m/f").read_bytes() == b"m" * 100
    noted(lambda _: None)
    run(way, root)
    assert tree_of(root / "dest") == tree_of(root / "src")


@either
def test_what_an_earlier_sync_has_left_of_a_large_file_outlives_what_is_added(
    way: Way, root: Path, noted: Watch
) -> None:
    large = os.urandom(LARGE)
    write(root / "src", {"a/f": b"f", "old/large": large, "z/f": b"z"})
    partials = root / "dest" / PARTIAL_NAME.decode()
    partials.mkdir(mode=0o700)
    left = partials / digest_of(large).hex()
    left.write_bytes(large[: LARGE - 1000])
    os.truncate(left, LARGE)
    left.chmod(0o600)

    def wait(path: bytes) -> None:
        if path == b"z":
            await_file(root / "dest/a/f", b"f")
            time.sleep(0.1)

    noted(wait)
    write(root / "dest", {"old/large": b"was another"})  # so that it is not added early itself
    stats = run(way, root)
    assert tree_of(root / "dest") == tree_of(root / "src")
    assert stats.wire_in + stats.wire_out < LARGE / 10


@either
def test_no_directory_node_travels_twice(
    way: Way, root: Path, noted: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tree, content in (("src", b"now"), ("dest", b"was")):
        write(root / tree, {"m/edited": content, "m/n/edited": content, "z/edited": content})
    write(root / "src", {"a/new": b"new"})
    sent: list[Digest] = []
    offered = nodes._offered

    def note(manifest: Manifest, digest: Digest) -> bytes:
        sent.append(digest)
        return offered(manifest, digest)

    monkeypatch.setattr(nodes, "_offered", note)
    # Of what is below "z", too: by then those before it have been told of.
    noted(lambda path: time.sleep(0.2) if path == b"z" else None)
    run(way, root)
    assert len(sent) >= 4
    assert len(sent) == len(set(sent))


@either
@pytest.mark.parametrize("seed", range(12))
def test_any_tree_becomes_any_other(way: Way, root: Path, noted: Watch, seed: int) -> None:
    rnd = random.Random(seed)
    for version in range(3):
        shake(root / "src", rnd)
        time.sleep(1.5e-9 * FINE_SLACK_NS)
        noted(lambda _: time.sleep(rnd.random() / 100))
        run(way, root)
        assert tree_of(root / "dest") == tree_of(root / "src"), version
        assert not [name for name in os.listdir(root / "dest") if name.startswith(".filesync")]


def shake(root: Path, rnd: random.Random) -> None:
    """Add, edit, move and remove files and directories below ``root``."""
    for _ in range(rnd.randint(3, 12)):
        directories = [root, *(path for path in root.rglob("*") if path.is_dir())]
        files = [path for path in root.rglob("*") if path.is_file()]
        at = rnd.choice(directories)
        name = at / f"{rnd.choice('abcde')}{rnd.randint(0, 5)}"
        match rnd.randint(0, 6):
            case 0 | 1 if not name.is_dir():
                name.write_bytes(rnd.randbytes(rnd.choice([0, 10, 1000, 30_000, 200_000])))
            case 2 if not name.exists():
                name.mkdir()
                for number in range(rnd.randint(0, 4)):
                    (name / f"f{number}").write_bytes(rnd.randbytes(rnd.randint(0, 3000)))
                name.chmod(rnd.choice([0o700, 0o755, 0o555]))
            case 3 if files and not name.exists():
                rnd.choice(files).rename(name)
            case 4 if len(files) > 3:
                rnd.choice(files).unlink()
            case 5 if files and not name.exists():
                os.link(rnd.choice(files), name)
            case 6 if files and not name.exists():
                name.write_bytes(rnd.choice(files).read_bytes())
