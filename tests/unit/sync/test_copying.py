"""What goes to an empty directory of this machine is read once: it is copied while it is scanned."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from filesync.errors import SourceChanged
from filesync.sync import copying, local
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
    """Return how many bytes this process reads meanwhile."""

    def so_far() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = so_far()
    work()
    return so_far() - before


def test_each_file_is_read_once(src: Path) -> None:
    content = FILES * SMALL_BYTES
    assert content <= read_bytes(lambda: sync(src)) < content * 1.1
    assert tree_of(src.parent / "dest") == tree_of(src)


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
    assert len(told) > 3


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
