"""A large file that comes to an update before its digest is known."""

import os
from pathlib import Path

import msgspec
import pytest

from filesync.digest import digest_of
from filesync.disk.reserved import PARTIAL_NAME
from filesync.disk.updating import partial
from filesync.disk.updating.arriving import ArrivingUpdate
from filesync.disk.updating.early import EarlyFile
from filesync.disk.updating.incoming import WantedFile
from filesync.early import stand_in_of
from filesync.errors import LocalError, StoreError
from filesync.manifest import EMPTY_DIRECTORY, File, MemoryNodes, put, with_entries

DATA = bytes(range(256)) * 100
TIME_NS = 1_700_000_000_000_000_000


@pytest.fixture
def update(root: Path) -> ArrivingUpdate:
    root.mkdir()
    nodes = MemoryNodes()
    one = ArrivingUpdate(root, nodes)
    one.prepare()
    return one


def early(
    update: ArrivingUpdate, data: bytes = DATA, *, cut: int = 0, time_ns: int = TIME_NS
) -> EarlyFile:
    """Have ``data`` come to an update, but for the last ``cut`` bytes."""
    file = EarlyFile(update, b"file", len(data), time_ns)
    file.prepare()
    for wanted in file.wanted():
        large = file.open_large(wanted)
        large.write(0, data[: len(data) - cut])
        if cut:
            large.abort()
        else:
            large.finish()
    file.finish()
    return file


def arrive(update: ArrivingUpdate, *files: File) -> list[WantedFile]:
    """Add the root, which has ``files``; return what is wanted of them."""
    nodes = update._nodes
    return update.add([(b"", put(nodes, with_entries(EMPTY_DIRECTORY, list(files))))])


def entry(name: bytes, data: bytes = DATA) -> File:
    return File(name, 0o640, 0, 0, TIME_NS, len(data), digest_of(data))


def left(root: Path) -> list[str]:
    found = root / PARTIAL_NAME.decode()
    return sorted(os.listdir(found)) if found.exists() else []


def test_what_has_come_early_is_put_in_place_by_its_digest(
    update: ArrivingUpdate, root: Path
) -> None:
    early(update)
    assert left(root) == [digest_of(DATA).hex()]
    assert arrive(update, entry(b"a")) == []
    update.finish()
    assert (root / "a").read_bytes() == DATA
    status = (root / "a").stat()
    assert (status.st_mode & 0o777, status.st_mtime_ns) == (0o640, TIME_NS)
    assert os.listdir(root) == ["a"]


def test_what_turns_out_to_be_something_else_is_removed(
    update: ArrivingUpdate, root: Path
) -> None:
    early(update, DATA[::-1])
    (wanted,) = arrive(update, entry(b"a"))
    large = update.open_large(wanted)
    large.write(0, DATA)
    large.finish()
    update.finish()
    assert (root / "a").read_bytes() == DATA
    assert os.listdir(root) == ["a"]


def test_a_tree_that_lies_about_its_size_is_not_believed(
    update: ArrivingUpdate, root: Path
) -> None:
    early(update)
    (wanted,) = arrive(update, msgspec.structs.replace(entry(b"a"), size=len(DATA) - 1))
    assert wanted.size == len(DATA) - 1
    update.abort()
    assert "a" not in os.listdir(root)


def test_of_what_has_changed_since_it_came_only_the_rest_need_come(
    update: ArrivingUpdate, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "EARLY_BYTES", 1)
    early(update)
    longer = DATA + b"one more line"
    other, wanted = arrive(update, entry(b"a", DATA[::-1]), entry(b"file", longer))
    assert (other.replaces, wanted.replaces > 0) == (0, True)
    large = update.open_large(wanted)
    large.copy(0, basis=0, basis_offset=0, length=len(DATA))
    large.write(len(DATA), longer[len(DATA) :])
    large.finish()
    update.write_small([(other, DATA[::-1])])
    update.finish()
    assert (root / "file").read_bytes() == longer
    assert sorted(os.listdir(root)) == ["a", "file"]


def test_what_is_not_whole_when_the_update_ends_is_removed(
    update: ArrivingUpdate, root: Path
) -> None:
    early(update, cut=1000)
    assert left(root) == [stand_in_of(len(DATA), TIME_NS).hex()]
    (wanted,) = arrive(update, entry(b"a"))
    large = update.open_large(wanted)
    large.write(0, DATA)
    large.finish()
    update.finish()
    assert os.listdir(root) == ["a"]


@pytest.mark.parametrize("cut", [0, 1000])
def test_what_has_come_stays_when_the_update_is_given_up(
    update: ArrivingUpdate, root: Path, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "EARLY_BYTES", 1)
    early(update, cut=cut)
    update.abort()
    again = ArrivingUpdate(root, MemoryNodes())
    again.prepare()
    (wanted,) = arrive(again, entry(b"a"))
    assert wanted.replaces > 0
    large = again.open_large(wanted)
    assert os.pread(large.bases[0].fd, 100, 0) == DATA[:100]
    large.abort()
    again.abort()


def test_what_comes_when_the_update_is_gone_is_let_go_of(
    update: ArrivingUpdate, root: Path
) -> None:
    file = EarlyFile(update, b"file", len(DATA), TIME_NS)
    file.prepare()
    (wanted,) = file.wanted()
    large = file.open_large(wanted)
    update.abort()
    large.abort()
    file.abort()
    with pytest.raises(LocalError):
        file.open_large(wanted)


def test_of_several_that_are_alike_none_comes_again(update: ArrivingUpdate, root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for time_ns in (TIME_NS, TIME_NS + 1):
        early(update, time_ns=time_ns)
    assert len(os.listdir("/proc/self/fd")) == before + 2  # theirs, and their directory's
    assert arrive(update, entry(b"a"), entry(b"b"), entry(b"c")) == []
    update.finish()
    assert sorted(os.listdir(root)) == ["a", "b", "c"]
    assert {(root / name).read_bytes() for name in "abc"} == {DATA}


def test_once_the_update_is_gone_none_is_made_wherever_its_descriptor_leads(
    update: ArrivingUpdate, root: Path, tmp_path: Path
) -> None:
    file = EarlyFile(update, b"file", len(DATA), TIME_NS)
    parent = update._partials._parent
    update.abort()
    other = os.open(tmp_path, os.O_RDONLY)
    os.dup2(other, parent)
    try:
        with pytest.raises(StoreError):
            file.prepare()
    finally:
        os.close(parent)
        os.close(other)
    assert os.listdir(tmp_path) == [root.name]


def test_no_more_are_held_open_than_may_be(
    update: ArrivingUpdate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "MOST_READY", 2)
    for number in range(2):
        early(update, b"%d" % number * 20_000, time_ns=number)
    file = EarlyFile(update, b"file", len(DATA), TIME_NS)
    file.prepare()
    assert list(file.wanted()) == []
    update.abort()


def test_of_two_that_cannot_be_told_apart_one_comes(update: ArrivingUpdate) -> None:
    first, second = (EarlyFile(update, name, len(DATA), TIME_NS) for name in (b"a", b"b"))
    first.prepare()
    second.prepare()
    assert (len(list(first.wanted())), len(list(second.wanted()))) == (1, 0)
    first.abort()
    update.abort()
