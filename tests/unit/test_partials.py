"""Partial files of two updates in one directory."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from filesync.digest import digest_of
from filesync.disk.reserved import PARTIAL_NAME
from filesync.disk.updating.partial import Partial, Partials
from filesync.manifest import File

DIGEST = digest_of(b"large")
FILE = File(b"f", 0o600, 0, 0, 0, 1 << 20, DIGEST)


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[int]:
    before = os.listdir("/proc/self/fd")
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)
    assert os.listdir("/proc/self/fd") == before


def looked(parent: int) -> Partials:
    partials = Partials(parent)
    partials.look()
    return partials


def being_written(parent: int) -> tuple[Partials, Partial]:
    partials = looked(parent)
    partial = partials.take(FILE)
    assert partial is not None
    os.pwrite(partial.fd, bytes(4096), 0)
    return partials, partial


def test_what_another_update_writes_is_not_removed_when_it_is_not_wanted(parent: int) -> None:
    first, partial = being_written(parent)
    second = Partials(parent)
    second.look()
    second.keep_only(())
    second.close()
    os.rename(partial.name, b"in place", src_dir_fd=first.fd, dst_dir_fd=parent)
    os.close(partial.fd)
    first.close()


def test_what_another_update_is_about_to_put_in_place_is_not_removed(parent: int) -> None:
    first, partial = being_written(parent)
    os.fchmod(partial.fd, 0o4755)  # as its entry says
    second = Partials(parent)
    second.look()
    assert not second.found
    second.close()
    os.rename(partial.name, b"in place", src_dir_fd=first.fd, dst_dir_fd=parent)
    os.close(partial.fd)
    first.close()


def test_what_nobody_writes_and_nobody_wants_is_removed(parent: int) -> None:
    first, partial = being_written(parent)
    first.release(partial.fd, DIGEST, keep=True)
    first.close()
    second = Partials(parent)
    second.look()
    os.mkdir(b"strange", dir_fd=second.fd)
    os.symlink(b"/etc/passwd", b"link", dir_fd=second.fd)
    second.close()
    third = Partials(parent)
    third.look()
    assert os.listdir(third.fd) == [DIGEST.hex()]
    third.keep_only(())
    assert not os.listdir(third.fd)
    assert not third.found
    third.close()
    third.close()
    assert not os.listdir(parent)


def test_what_is_no_file_is_removed(parent: int) -> None:
    left(parent)
    first = looked(parent)
    os.unlink(DIGEST.hex(), dir_fd=first.fd)
    os.mkfifo(DIGEST.hex(), 0o600, dir_fd=first.fd)
    second = looked(parent)
    assert not second.found
    assert not os.listdir(second.fd)
    second.close()
    first.close()


def test_a_disk_that_fails_says_so(parent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "ill")

    partials = looked(parent)
    monkeypatch.setattr(os, "ftruncate", fail)
    with pytest.raises(OSError, match="ill"):
        partials.take(FILE)
    partials.close()


# --- what has changed since it was looked at ------------------------------------------------------


def left(parent: int) -> None:
    """Leave a partial file, as an update does that is interrupted."""
    partials, partial = being_written(parent)
    partials.release(partial.fd, DIGEST, keep=True)
    partials.close()


def test_what_another_update_began_since_is_not_written_to(parent: int) -> None:
    second = looked(parent)
    first, partial = being_written(parent)
    assert second.take(FILE) is None
    second.close()
    first.release(partial.fd, DIGEST, keep=False)
    first.close()


def test_what_another_update_removed_since_is_begun_anew(parent: int) -> None:
    left(parent)
    second = looked(parent)
    assert second.found
    third = looked(parent)
    third.keep_only(())
    partial = second.take(FILE)
    assert partial is not None
    assert partial.extents == []
    second.release(partial.fd, DIGEST, keep=False)
    assert not second.found
    second.close()
    third.close()


def test_where_another_update_removed_their_directory_since_none_is_begun(parent: int) -> None:
    left(parent)
    second = looked(parent)
    third = looked(parent)
    third.keep_only(())
    third.close()
    assert second.take(FILE) is None
    second.close()


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_what_leads_elsewhere_since_is_not_written_to(
    parent: int, tmp_path: Path, link: Callable[..., None]
) -> None:
    left(parent)
    secret = tmp_path / "secret"
    secret.write_bytes(b"precious")
    secret.chmod(0o600)
    second = looked(parent)
    (place,) = (tmp_path / PARTIAL_NAME.decode()).iterdir()
    place.unlink()
    link(secret, place)
    partial = second.take(FILE)
    assert secret.read_bytes() == b"precious"
    assert partial is None or os.fstat(partial.fd).st_ino != secret.stat().st_ino
    if partial is not None:
        second.release(partial.fd, DIGEST, keep=False)
    second.close()


def test_a_partial_file_of_too_many_pieces_is_begun_anew(
    parent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("filesync.disk.updating.partial._MAX_EXTENTS", 3)
    for pieces, kept in ((3, 3), (4, 0)):
        partials, partial = being_written(parent)
        for number in range(1, pieces):
            os.pwrite(partial.fd, bytes(4096), number * 100_000)
        partials.release(partial.fd, DIGEST, keep=True)
        partials.close()
        second = looked(parent)
        again = second.take(FILE)
        assert again is not None
        assert len(again.extents) == kept
        assert bool(os.fstat(again.fd).st_blocks) == bool(kept)  # a hole reads as zeros
        assert os.fstat(again.fd).st_size == 1 << 20
        second.release(again.fd, DIGEST, keep=False)
        second.close()
