"""Files that the user named, and what is there already."""

import fcntl
import os
import signal
import stat
import threading
from pathlib import Path

import pytest

from solver.client.outputs.files import making_beside, put_file, write_text
from solver.client.outputs.outputs import check_outputs, parse_output


def node(path: Path) -> Path:
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    return path


@pytest.mark.needs("root")
def test_a_device_is_written_to_and_stays_one(tmp_path: Path) -> None:
    device, made = node(tmp_path / "null"), tmp_path / "made"
    made.write_text("an image")
    write_text(device, "an ID")
    put_file(made, device)
    assert device.is_char_device()
    with making_beside(device) as directory:
        assert directory.parent != device.parent


def test_who_reads_a_pipe_gets_what_was_made(tmp_path: Path) -> None:
    pipe, made, read = tmp_path / "pipe", tmp_path / "made", []
    os.mkfifo(pipe)
    made.write_text("an image")
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    put_file(made, pipe)
    reader.join()
    assert read == ["an image"]
    assert pipe.is_fifo()


def test_a_link_is_followed_and_stays_one(tmp_path: Path) -> None:
    link, file, made = tmp_path / "link", tmp_path / "elsewhere" / "file", tmp_path / "made"
    file.parent.mkdir()
    link.symlink_to(file)
    write_text(link, "an ID")
    assert (link.is_symlink(), file.read_text()) == (True, "an ID")
    made.write_text("an image")
    put_file(made, link)
    assert (link.is_symlink(), file.read_text()) == (True, "an image")
    with making_beside(link) as directory:
        assert directory.parent == file.parent


def test_a_link_that_others_put_beside_a_file_to_come_is_not_written_through(
    tmp_path: Path,
) -> None:
    (tmp_path / ".iid.part").symlink_to(tmp_path / "other")
    write_text(tmp_path / "iid", "an ID")
    assert not (tmp_path / "other").exists()
    assert sorted(os.listdir(tmp_path)) == [".iid.part", "iid"]


@pytest.mark.needs("root")
def test_a_device_may_be_where_nothing_could_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = node(tmp_path / "null")
    monkeypatch.setattr(os, "access", lambda *_: False)
    check_outputs([parse_output(f"type=tar,dest={device}")])


def test_what_a_build_leaves_that_is_killed_as_it_makes_a_file_goes_with_the_next(
    tmp_path: Path,
) -> None:
    dest, others = tmp_path / "app.tar", tmp_path / ".filesync-others"
    others.mkdir()
    killed = os.fork()
    if not killed:
        with making_beside(dest) as made:
            (made / "half").write_text("of an image")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(killed, 0)
    (left,) = set(tmp_path.iterdir()) - {others}
    with making_beside(dest) as made, making_beside(dest) as at_the_same_time:
        assert set(tmp_path.iterdir()) == {others, made, at_the_same_time}
        assert left not in (made, at_the_same_time)
    assert set(tmp_path.iterdir()) == {others}


def test_what_is_taken_for_left_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock

    def late(fd: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        with making_beside(tmp_path / "another.tar"):
            lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with making_beside(tmp_path / "app.tar") as made:
        assert list(tmp_path.iterdir()) == [made]
