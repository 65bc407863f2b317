"""What goes to an empty directory of this machine is read once: it is copied while it is scanned."""

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from filesync.digest import Digest
from filesync.disk.scanning import scan
from filesync.disk.updating import incoming
from filesync.errors import SourceChanged, StoreError
from filesync.manifest import Directory, Manifest
from filesync.sync import copying, local
from filesync.sync.aside import watched
from filesync.sync.changing import Attempts
from filesync.sync.local import sync_local
from filesync.sync.options import Options
from filesync.sync.saying.stats import SyncStats
from filesync.transfer.send.recent import Recent
from filesync.transfer.stats import Progress
from tests.integration.test_sync_plane import tree_of

FILES, SMALL_BYTES, LARGE_BYTES = 600, 8000, 3 << 20


@pytest.fixture
def src(tmp_path: Path) -> Path:
    src = tmp_path / "src"
    for number in range(FILES):
        path = src / f"d{number % 7}/{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(SMALL_BYTES))
    os.link(src / "d1/1", src / "d3/linked")
    (src / "d2/same").write_bytes((src / "d0/0").read_bytes())
    (src / "d2/link").symlink_to("same")
    (src / "empty").write_bytes(b"")
    return src


def sync(src: Path, options: Options | None = None, dest: str = "dest") -> SyncStats:
    where = os.fsencode(src.parent / dest)
    return sync_local([os.fsencode(src) + b"/"], where, options or Options())


def read_bytes(work: Callable[[], object]) -> int:
    """Return how many bytes this process reads meanwhile, and those that it waits for."""

    def so_far() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = so_far()
    work()
    return so_far() - before


def test_each_file_is_read_once(src: Path) -> None:
    content = FILES * SMALL_BYTES
    # And once more from the process that has read it.
    assert content <= read_bytes(lambda: sync(src)) - content < content * 1.1
    assert tree_of(src.parent / "dest") == tree_of(src)


def test_what_was_hashed_as_it_was_read_is_not_hashed_again(
    src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "blake3", None)
    sync(src)
    assert tree_of(src.parent / "dest") == tree_of(src)


def link_all(src: Path) -> None:
    """Give each file in ``src/d*`` a second name beside it."""
    for path in list(src.glob("d*/*")):
        os.link(path, f"{path}-too", follow_symlinks=False)


def test_so_is_a_file_that_has_several_names(
    src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (src / "d2/same").unlink()
    link_all(src)
    monkeypatch.setattr(copying.Copying, "_copy_one", None)  # which reads it again
    sync(src)
    assert tree_of(src.parent / "dest") == tree_of(src)


def test_of_names_that_are_one_file_no_directory_is_decoded_for_each(
    src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link_all(src)
    decoded: list[Digest] = []
    real = Manifest.directory

    def counting(self: Manifest, tree: Digest) -> Directory:
        decoded.append(tree)
        return real(self, tree)

    monkeypatch.setattr(Manifest, "directory", counting)
    sync(src)
    assert len(decoded) < FILES / 4


def test_what_does_not_fit_into_memory_is_read_again(
    src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "Recent", lambda: Recent(100_000))
    (src / "d4/large").write_bytes(os.urandom(LARGE_BYTES))
    stats = sync(src)
    assert tree_of(src.parent / "dest") == tree_of(src)
    assert stats.files == FILES + 2  # a link is none, and what is empty is not copied
    assert stats.content_bytes == (FILES + 1) * SMALL_BYTES + LARGE_BYTES


def drop(changes: Iterator[str]) -> None:
    """Have all changes made up, and list none."""
    for _ in changes:
        pass


def test_the_figures_are_those_of_a_sync_that_scans_first(src: Path) -> None:
    for name in ("d1/twice", "d5/twice"):  # fetched once, and copied at the end
        (src / name).write_bytes(b"twice" * 10_000)
    growing = sync(src)
    plain = sync(src, Options(on_changes=drop), dest="other")
    assert (growing.created, growing.files, growing.content_bytes, growing.trees) == (
        plain.created,
        plain.files,
        plain.content_bytes,
        plain.trees,
    )


def test_progress_ends_with_all_of_it(src: Path) -> None:
    told: list[Progress] = []
    dest = os.fsencode(src.parent / "dest")
    stats = sync_local([os.fsencode(src) + b"/"], dest, Options(), progress=told.append)
    assert told[-1] == Progress(stats.files, stats.content_bytes, 0)
    assert len(told) > 1


def test_a_destination_in_the_source_is_made_of_what_was_there_before(src: Path) -> None:
    before = tree_of(src)
    sync(src, dest="src/copy")
    assert tree_of(src / "copy") == before


def test_a_file_that_changes_before_it_is_copied_is_named_and_the_next_attempt_is_right(
    src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = src / "d4/large"
    large.write_bytes(os.urandom(LARGE_BYTES))
    real = copying.Copying.directory_done

    def late(self: copying.Copying, *directory: object) -> None:
        if directory[0] == b"d4":
            large.write_bytes(os.urandom(LARGE_BYTES))
        real(self, *directory)  # type: ignore[arg-type]

    monkeypatch.setattr(copying.Copying, "directory_done", late)
    with pytest.raises(SourceChanged) as caught:
        sync(src)
    assert caught.value.path == b"d4/large"
    monkeypatch.undo()
    attempts = Attempts(Options())
    attempts.note(caught.value)
    sync(src, attempts.options)
    assert tree_of(src.parent / "dest") == tree_of(src)


def test_a_scan_that_was_killed_is_made_again_by_who_copies(
    src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, real = os.getpid(), watched._Teller.directory_done

    def killed(self: watched._Teller, path: bytes, tree: Digest) -> None:
        real(self, path, tree)
        self._hand()
        if path == b"d3":
            assert os.getpid() != here
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(watched._Teller, "directory_done", killed)
    stats = sync(src)
    assert tree_of(src.parent / "dest") == tree_of(src)
    assert stats.files == FILES + 1


def test_where_no_process_can_be_made_one_copies_what_it_has_scanned(
    src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", full)
    assert sync(src).files == FILES + 1
    assert tree_of(src.parent / "dest") == tree_of(src)


def test_what_fits_no_manifest_is_named_whoever_scans(
    src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "MAX_DEPTH", 3)
    (src / "d5/a/b/c").mkdir(parents=True)
    with pytest.raises(StoreError, match="/src' fits no manifest: more than 3 directories"):
        sync(src)


def test_where_it_is_known_what_comes_it_is_planned(
    src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local._Sync, "_copy_growing", None)
    (src.parent / "dest").mkdir()
    (src.parent / "dest/there").write_bytes(b"there")
    sync(src)
    assert (src.parent / "dest/there").exists()
    sync(src, Options(dry_run=True), dest="other")
    assert not (src.parent / "other").exists()
