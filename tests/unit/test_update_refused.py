"""Updates that are refused some names: they go on past them if they were told to."""

import errno
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from filesync.digest import digest_of
from filesync.disk.removing import open_up
from filesync.disk.updating.refusals import MAX_NAMED, Refusals, is_single
from filesync.disk.updating.removal import Remover
from filesync.disk.updating.update import LocalTree, TreeUpdate
from filesync.disk.updating.visits import is_below
from filesync.errors import StoreError
from filesync.manifest import Entry, Manifest, group_name
from tests.unit.made import file
from tests.unit.update_driver import (
    Contents,
    MakeFile,
    MakeLink,
    MakeSymlink,
    build,
    hand_in,
    scanned,
    tree_of,
)

Refuse = Callable[..., object]
LARGE = b"large" * 100_000
FAT_BYTES = (4 << 30) - 1


def refused_by(why: int, *names: bytes) -> Callable[[Refuse], Refuse]:
    """Have a system call answer ``why`` to these names."""

    def wrap(call: Refuse) -> Refuse:
        def refusing(*args: object, **kwargs: object) -> object:
            if not set(names).isdisjoint(arg for arg in args if isinstance(arg, bytes)):
                raise OSError(why, os.strerror(why))
            return call(*args, **kwargs)

        return refusing

    return wrap


def refuse(monkeypatch: pytest.MonkeyPatch, why: int, *names: bytes) -> None:
    for call in ("rename", "unlink", "mkdir", "rmdir", "link"):
        monkeypatch.setattr(os, call, refused_by(why, *names)(getattr(os, call)))


def refuse_to_make(monkeypatch: pytest.MonkeyPatch, why: int, *names: bytes) -> None:
    """Do so, and where files are made under their names at once."""
    refuse(monkeypatch, why, *names)
    look: Refuse = os.open
    make = refused_by(why, *names)(look)

    def opened(name: str | bytes, flags: int, *args: object, **kwargs: object) -> object:
        return (make if flags & os.O_CREAT else look)(name, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", opened)


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("root", "source"):
        (tmp_path / name).mkdir()
    return tmp_path / "root", tmp_path / "source"


def going_on(
    roots: tuple[Path, Path], *, goes_on: bool = True, target: Manifest | None = None
) -> TreeUpdate:
    root, source = roots
    return TreeUpdate(
        root,
        basis=scanned(root),
        target=target or scanned(source),
        atomic=True,
        goes_on=goes_on,
    )


def done(update: TreeUpdate, source: Path) -> TreeUpdate:
    try:
        update.prepare()
        hand_in(update, list(update.wanted()), Contents(source, scanned(source)))
        update.finish()
    finally:
        update.abort()
    return update


# --- which ------------------------------------------------------------------------------------


def test_what_ails_the_disk_or_the_process_is_no_refusal_of_a_name() -> None:
    whole = ("ENOSPC", "EDQUOT", "EIO", "EMFILE", "ENFILE", "ENOMEM", "ENOENT", "ESTALE")
    assert not any(is_single(getattr(errno, name)) for name in whole)
    single = ("EPERM", "EACCES", "EROFS", "EBUSY", "ETXTBSY", "ENAMETOOLONG", "EFBIG")
    assert all(is_single(getattr(errno, name)) for name in single)
    assert is_single(errno.ENOENT, is_new=True)
    assert not is_single(errno.EIO, is_new=True)
    assert not is_single(None)


def test_who_does_not_go_on_gets_every_error() -> None:
    for goes_on, why in ((False, errno.EPERM), (True, errno.ENOSPC)):
        refusals = Refusals(goes_on=goes_on)
        error = OSError(why, os.strerror(why))
        with pytest.raises(OSError, match=os.strerror(why)) as caught:
            refusals.note(b"a", error)
        assert caught.value is error
        assert (refusals.count, refusals.named) == (0, {})


def test_so_many_refused_names_are_remembered_and_the_rest_counted() -> None:
    refusals = Refusals(goes_on=True)
    for number in range(MAX_NAMED + 5):
        refusals.note(b"%d" % number, OSError(errno.EPERM, ""), uncreated=2)
    assert (len(refusals.named), refusals.count) == (MAX_NAMED, MAX_NAMED + 5)
    assert refusals.uncreated == 2 * MAX_NAMED + 10


def test_what_is_below_a_refused_directory_is_told_from_its_neighbours() -> None:
    paths = [b"", b"a", b"a/b", b"a/b/c/d", b"a/bc"]
    assert not any(is_below(path, frozenset()) for path in paths)
    assert [path for path in paths if is_below(path, {b"a/b"})] == [b"a/b", b"a/b/c/d"]


# --- updates ----------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"new", LARGE])
def test_a_refused_file_stays_and_is_not_said_to_be_proved(
    roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    root, source = roots
    build(root, [MakeFile("stays", b"old")])
    build(source, [MakeFile("a", content + b"a"), MakeFile("stays", content)])
    refuse(monkeypatch, errno.EPERM, b"stays")
    update = done(going_on(roots), source)
    assert update.refused.named == {b"stays": errno.EPERM}
    assert b"stays" not in {file.name for one in update.proved() for file in one.files}
    assert (root / "stays").read_bytes() == b"old"
    assert (root / "a").read_bytes() == content + b"a"
    assert sorted(os.listdir(root)) == ["a", "stays"]
    assert update.done is not None
    assert update.done.created == 1


@pytest.mark.parametrize("content", [b"new", LARGE])
@pytest.mark.parametrize("why", [errno.EPERM, errno.EBUSY])
def test_who_makes_a_tree_that_must_equal_its_digest_gets_the_refusal_as_an_error(
    roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, content: bytes, why: int
) -> None:
    root, source = roots
    build(root, [MakeFile("stays", b"old")])
    build(source, [MakeFile("stays", content)])
    refuse(monkeypatch, why, b"stays")
    with pytest.raises(StoreError, match="stays"):
        done(going_on(roots, goes_on=False), source)
    assert (root / "stays").read_bytes() == b"old"


@pytest.mark.parametrize("why", [errno.ENOSPC, errno.EIO, errno.EMFILE])
def test_what_concerns_the_whole_update_ends_it(
    roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, why: int
) -> None:
    build(roots[1], [MakeFile("a", b"1"), MakeFile("b", b"2")])
    refuse(monkeypatch, why, b"a")
    with pytest.raises(StoreError):
        done(going_on(roots), roots[1])


@pytest.mark.parametrize("why", [errno.ENOENT, errno.EINVAL])
def test_new_names_that_the_file_system_does_not_take_are_refused_and_all_else_is_done(
    roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, why: int
) -> None:
    root, source = roots
    build(source, [MakeFile(name, LARGE) for name in ("a:", "new/a:", "new/copy")])
    build(source, [MakeFile(name, b"x") for name in ("b:", "new/b:", "c", "d:/in", "e:")])
    build(source, [MakeLink("link", "b:"), MakeSymlink("s:", "c")])
    refuse_to_make(monkeypatch, why, b"a:", b"b:", b"d:", b"e:", b"s:")
    update = done(going_on(roots), source)
    refused = {b"a:", b"new/a:", b"b:", b"new/b:", b"d:", b"e:", b"s:"}
    assert update.refused.named == dict.fromkeys(refused, why)
    assert sorted(os.listdir(root)) == ["c", "link", "new"]
    assert (root / "link").read_bytes() == b"x"
    assert os.listdir(root / "new") == ["copy"]
    assert (root / "new/copy").read_bytes() == LARGE


def test_a_name_that_is_there_and_gone_the_next_moment_is_no_refusal(
    roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, source = roots
    build(root, [MakeFile("a", b"old")])
    build(source, [MakeFile("a", b"new")])
    refuse(monkeypatch, errno.ENOENT, b"a")
    with pytest.raises(StoreError, match="'a'"):
        done(going_on(roots), source)


@pytest.mark.parametrize("gone", ["", "new"])
@pytest.mark.parametrize("content", [b"small", LARGE])
def test_where_the_directory_is_removed_meanwhile_no_name_is_refused(
    roots: tuple[Path, Path], gone: str, content: bytes
) -> None:
    root, source = roots
    build(source, [MakeFile("new/a", content)])
    update = going_on(roots)
    update.prepare()
    wanted = list(update.wanted())
    contents = Contents(source, scanned(source))
    shutil.rmtree(root / gone)
    with pytest.raises(StoreError, match="somebody removed it"):
        hand_in(update, wanted, contents)
    update.abort()
    assert not update.refused.count


@pytest.fixture
def limit_bytes() -> Iterator[int]:
    """So large the files of this process can be."""
    old, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = len(LARGE) + 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (old, most))


def too_large_and_not(size: int) -> list[Entry]:
    """One that is too large, under three names, and two of which one is not."""
    large = replace(file(b"a", b""), size=size, digest=digest_of(b"large"))
    group = group_name(b"a")
    return [
        replace(large, link=group),
        file(b"b", b"small"),
        replace(large, name=b"copy"),
        replace(large, name=b"link", link=group),
    ]


def test_a_file_too_large_for_this_process_is_refused_and_does_not_come(
    roots: tuple[Path, Path], limit_bytes: int
) -> None:
    root, source = roots
    build(root, [MakeFile("a", b"old")])
    build(source, [MakeFile("b", b"small")])
    target = tree_of(*too_large_and_not(limit_bytes + 1))
    update = going_on(roots, target=target)
    update.prepare()
    wanted = list(update.wanted())
    assert [one.size for one in wanted] == [5]
    hand_in(update, wanted, Contents(source, scanned(source)))
    update.finish()
    assert update.refused.named == dict.fromkeys((b"a", b"copy", b"link"), errno.EFBIG)
    assert sorted(os.listdir(root)) == ["a", "b"]
    assert (root / "a").read_bytes() == b"old"


def test_a_file_too_large_for_the_file_system_is_refused_and_does_not_come(
    roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    lseek = os.lseek

    def of_fat(fd: int, offset: int, whence: int) -> int:
        if offset > FAT_BYTES:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return lseek(fd, offset, whence)

    monkeypatch.setattr(os, "lseek", of_fat)
    for size, names in ((FAT_BYTES + 1, [b"b"]), (FAT_BYTES, [b"a", b"b"])):
        update = going_on(roots, target=tree_of(*too_large_and_not(size)))
        update.prepare()
        assert len(list(update.wanted())) == len(names)
        assert update.refused.count == (0 if b"a" in names else 2)
        update.abort()


def test_who_makes_a_tree_that_must_equal_its_digest_is_told_before_what_is_too_large_comes(
    roots: tuple[Path, Path], limit_bytes: int
) -> None:
    target = tree_of(*too_large_and_not(limit_bytes + 1))
    update = going_on(roots, goes_on=False, target=target)
    update.prepare()
    with pytest.raises(StoreError, match="'a': File too large"):
        list(update.wanted())
    update.abort()


def test_what_is_in_a_directory_that_cannot_be_made_is_not_looked_at(
    roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, source = roots
    build(source, [MakeFile("d/e/1", b"1"), MakeFile("d/2", b"2"), MakeFile("f/3", b"3")])
    refuse(monkeypatch, errno.EACCES, b"d")
    update = going_on(roots)
    update.prepare()
    wanted = list(update.wanted())
    assert [one.size for one in wanted] == [1]
    hand_in(update, wanted, Contents(source, scanned(source)))
    stats = update.finish()
    assert stats.created == 2
    assert update.refused.named == {b"d": errno.EACCES}
    assert sorted(os.listdir(root)) == ["f"]


def test_a_refused_first_name_of_a_group_leaves_the_others_one_file(
    roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, source = roots
    build(source, [MakeFile("a", b"one"), MakeLink("b", "a"), MakeLink("c", "a")])
    build(root, [MakeFile("a", b"another")])
    refuse(monkeypatch, errno.EPERM, b"a")
    done(going_on(roots), source)
    assert (root / "a").read_bytes() == b"another"
    assert (root / "b").read_bytes() == b"one"
    assert (root / "b").samefile(root / "c")
    assert (root / "b").stat().st_nlink == 2


def test_a_name_that_cannot_leave_its_group_keeps_its_content_and_nothing_comes_for_it(
    roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, source = roots
    build(root, [MakeFile("a", b"old"), MakeLink("c", "a"), MakeLink("d", "a")])
    build(
        source, [MakeFile("a", b"new"), MakeFile("c", b"old", mode=0o640), MakeLink("d", "c")]
    )
    refuse(monkeypatch, errno.EPERM, b"c")
    update = going_on(roots)
    update.prepare()
    wanted = list(update.wanted())
    assert len(wanted) == 1
    hand_in(update, wanted, Contents(source, scanned(source)))
    assert update.finish().files_copied == 0
    assert update.refused.named == {b"c": errno.EPERM}
    assert [(root / name).read_bytes() for name in "acd"] == [b"new", b"old", b"old"]


def test_a_refused_copy_is_not_made_for_nobody(
    roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, source = roots
    build(source, [MakeFile(name, LARGE) for name in "abc"])
    refuse(monkeypatch, errno.EPERM, b"b")
    update = done(going_on(roots), source)
    assert update.done is not None
    assert (update.done.created, update.done.files_copied) == (2, 1)
    assert sorted(os.listdir(root)) == ["a", "c"]


def test_an_update_that_cannot_even_remove_what_it_has_set_aside_leaves_nothing_open(
    roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, source = roots
    build(root, [MakeFile("gone/in", b"1")])
    build(source, [MakeFile("a", b"2")])
    update = going_on(roots)
    before = len(os.listdir("/proc/self/fd"))
    update.prepare()
    refuse(monkeypatch, errno.EIO, b"in")
    update.abort()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_other_trees_of_this_machine_have_goes_past_refusals_too(
    roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, source = roots
    build(source, [MakeFile("a", LARGE), MakeLink("b", "a"), MakeFile("c", b"c")])
    refuse(monkeypatch, errno.EPERM, b"a")
    target = scanned(source)
    update = TreeUpdate(
        root,
        basis=None,
        target=target,
        local=[LocalTree(target, source)],
        atomic=True,
        goes_on=True,
    )
    update.prepare()
    assert list(update.wanted()) == []
    update.finish()
    assert sorted(os.listdir(root)) == ["b", "c"]
    assert (root / "b").read_bytes() == LARGE
    assert [one.name for proved in update.proved() for one in proved.files] == [b"c"]


def test_what_cannot_be_removed_comes_back_even_when_the_update_fails(
    roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, source = roots
    build(root, [MakeFile("gone/d/stays", b"1"), MakeFile("gone/d/goes", b"2")])
    build(source, [MakeFile("a", b"3")])
    refuse(monkeypatch, errno.EPERM, b"stays")
    update = going_on(roots)
    update.prepare()
    update.abort()
    assert [path.relative_to(root) for path in sorted(root.rglob("*"))] == [
        Path("gone"),
        Path("gone/d"),
        Path("gone/d/stays"),
    ]


def test_what_cannot_be_taken_for_another_name_comes_back_as_it_was(
    roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, source = roots
    build(root, [MakeFile("gone/stays", b"1", mode=0o644, mtime_ns=7)])
    build(source, [MakeFile("renamed", b"1", mode=0o600, mtime_ns=9)])
    refuse(monkeypatch, errno.EPERM, b"stays")
    update = done(going_on(roots), source)
    assert update.refused.named == {b"gone/stays": errno.EPERM}
    status = (root / "gone/stays").stat()
    assert (status.st_mode & 0o777, status.st_mtime_ns) == (0o644, 7)
    assert (root / "renamed").stat().st_mode & 0o777 == 0o600


def test_what_comes_back_takes_the_place_of_what_was_put_there(
    roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, source = roots
    build(root, [MakeFile("name/stays", b"1"), MakeFile("name/goes", b"2")])
    build(source, [MakeFile("name", LARGE)])
    refuse(monkeypatch, errno.EPERM, b"stays")
    update = done(going_on(roots), source)
    assert update.refused.named == {b"name/stays": errno.EPERM, b"name": errno.ENOTEMPTY}
    assert os.listdir(root) == ["name"]
    assert os.listdir(root / "name") == ["stays"]


def test_what_cannot_be_removed_comes_back_whatever_else_was_removed_before_it(
    roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, source = roots
    build(root, [MakeFile("a/goes"), MakeFile("b"), MakeFile("c"), MakeFile("d/stays", b"1")])
    refuse(monkeypatch, errno.EPERM, b"stays")
    update = done(going_on(roots), source)
    assert update.refused.named == {b"d/stays": errno.EPERM}
    assert os.listdir(root) == ["d"]
    assert (root / "d/stays").read_bytes() == b"1"


def test_nothing_comes_in_the_place_of_a_directory_that_has_to_stay(
    roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, source = roots
    build(root, [MakeFile("d/stays", b"1"), MakeFile("d/goes", b"2"), MakeFile("l/stays")])
    build(source, [MakeFile("d", LARGE), MakeSymlink("l", "d")])
    refuse(monkeypatch, errno.EPERM, b"d", b"l", b"stays")
    update = going_on(roots)
    update.prepare()
    assert list(update.wanted()) == []
    update.finish()
    assert update.refused.named == {
        b"d/stays": errno.EPERM,
        b"l/stays": errno.EPERM,
        b"d": errno.ENOTEMPTY,
        b"l": errno.ENOTEMPTY,
    }
    assert (os.listdir(root / "d"), os.listdir(root / "l")) == (["stays"], ["stays"])


def test_what_a_killed_update_has_left_and_cannot_be_removed_is_named(
    roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, source = roots
    left = ".filesync-0123456789abcdef"
    build(root, [MakeFile(f"{left}/3/stays", b"1"), MakeFile(f"{left}/goes", b"2")])
    build(source, [MakeFile("a", b"3")])
    refuse(monkeypatch, errno.EPERM, b"stays")
    target = scanned(source)
    update = done(
        TreeUpdate(root, basis=None, target=target, atomic=True, goes_on=True), source
    )
    assert update.refused.named == {f"{left}/3/stays".encode(): errno.EPERM}
    assert sorted(os.listdir(root)) == [left, "a"]
    assert os.listdir(root / left) == ["3"]


# --- removing ---------------------------------------------------------------------------------


def test_all_is_removed_but_what_is_refused_and_the_way_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    makes = [MakeFile(name, b"1") for name in ("t/a/x", "t/a/b/stays", "t/c/d/e", "t/f", "u")]
    build(tmp_path / "root", makes)
    (tmp_path / "root/t/a").chmod(0o555)
    told: dict[bytes, int | None] = {}

    def note(path: bytes, error: OSError) -> None:
        told[path] = error.errno

    refuse(monkeypatch, errno.EPERM, b"stays")
    fd = os.open(tmp_path / "root", os.O_RDONLY)
    try:
        with Remover(fd) as one:
            assert one.remove(b"t", note) == 4
            assert one.remove(b"u", note) == 0
            assert one.remove(b"not there", note) == 0
    finally:
        os.close(fd)
    assert told == {b"t/a/b/stays": errno.EPERM}
    assert sorted(path.name for path in (tmp_path / "root").rglob("*")) == [
        "a",
        "b",
        "stays",
        "t",
    ]
    assert (tmp_path / "root/t/a").stat().st_mode & 0o777 == 0o555


def test_a_very_deep_tree_is_removed_past_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    depth = 400
    (tmp_path / "t" / "/".join("d" * depth)).mkdir(parents=True)
    (tmp_path / "t" / "/".join("d" * depth) / "stays").write_bytes(b"1")
    (tmp_path / "t" / "/".join("d" * 200) / "goes").write_bytes(b"1")
    refuse(monkeypatch, errno.EPERM, b"stays")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with Remover(fd) as one:
            assert one.remove(b"t", lambda *_: None) == depth + 2
    finally:
        os.close(fd)
    assert not (tmp_path / "t" / "/".join("d" * 200) / "goes").exists()
    assert (tmp_path / "t" / "/".join("d" * depth) / "stays").exists()


def removed(root: Path) -> tuple[int, list[bytes]]:
    """Remove ``t``; return how many names are left, and what was refused."""
    told: list[bytes] = []
    fd = os.open(root, os.O_RDONLY)
    try:
        with Remover(fd) as one:
            return one.remove(b"t", lambda path, _: told.append(path)), told
    finally:
        os.close(fd)


@pytest.mark.parametrize("when", ["before it is listed", "before it is removed"])
def test_what_somebody_else_removes_meanwhile_is_neither_refused_nor_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    inner = tmp_path / "t/in"
    inner.mkdir(parents=True)
    rmdir = os.rmdir

    def opening_up(place: int, name: bytes, *, mount: bytes) -> int:
        mode = open_up(place, name, mount=mount)
        if name == b"in":
            inner.rmdir()
        return mode

    def removing(name: bytes, *, dir_fd: int) -> None:
        if name == b"in":
            rmdir(inner)
        rmdir(name, dir_fd=dir_fd)

    if when == "before it is listed":
        monkeypatch.setattr("filesync.disk.updating.removal.open_up", opening_up)
    else:
        monkeypatch.setattr(os, "rmdir", removing)
    assert removed(tmp_path) == (0, [])
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(("times", "left"), [(3, 0), (1_000_000, 1)])
def test_what_somebody_puts_into_a_directory_while_it_is_removed_goes_too_if_that_ever_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, left: int
) -> None:
    (tmp_path / "t").mkdir()
    rmdir, numbers = os.rmdir, iter(range(times))

    def removing(name: bytes, *, dir_fd: int) -> None:
        if (number := next(numbers, None)) is not None:
            (tmp_path / "t" / str(number)).touch()
        rmdir(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", removing)
    assert removed(tmp_path) == (left, [b"t"] * left)
    assert (tmp_path / "t").exists() == bool(left)
