"""Large files that were interrupted, and what the next update makes of what they left."""

import errno
import os
import random
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filesync.disk.removing import remove_path
from filesync.disk.reserved import PARTIAL_NAME
from filesync.disk.updating.large import LargeFile
from filesync.disk.updating.update import TreeUpdate
from filesync.errors import ContentCorrupt, StoreError
from filesync.manifest import Manifest
from tests.unit.update_driver import file, scanned, tree_of

DATA = random.Random(1).randbytes(300_000)
PARTIAL = os.fsdecode(PARTIAL_NAME)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


def opened(root: Path, data: bytes = DATA) -> tuple[TreeUpdate, LargeFile]:
    """Begin an update that makes the file ``a``."""
    basis = scanned(root)
    one = TreeUpdate(root, basis=basis, target=target_of(data))
    one.prepare()
    return one, one.open_large(next(one.wanted()))


def target_of(data: bytes) -> Manifest:
    return tree_of(file(b"a", data))


def interrupted(root: Path, *pieces: tuple[int, int]) -> None:
    """Let an update write some (start, end) of the content and then give up."""
    one, large = opened(root)
    for start, end in pieces:
        large.write(start, DATA[start:end])
    large.abort()
    large.abort()
    one.abort()


def partial_of(root: Path, data: bytes = DATA) -> Path:
    return root / PARTIAL / file(b"a", data).digest.hex()


def killed(run: Callable[[], None]) -> None:
    """Run something in a process that is killed at its end."""
    pid = os.fork()
    if not pid:
        try:
            run()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


def test_what_was_written_is_not_written_again(root: Path) -> None:
    interrupted(root, (0, 100_000), (200_000, 300_000))
    blocks = partial_of(root).stat().st_blocks
    one, large = opened(root)
    (basis,) = large.bases
    assert os.pread(basis.fd, 100_000, 0) == DATA[:100_000]
    modified_ns = partial_of(root).stat().st_mtime_ns
    large.copy(0, basis=0, basis_offset=0, length=100_000)
    large.copy(200_000, basis=0, basis_offset=200_000, length=100_000)
    assert partial_of(root).stat().st_mtime_ns == modified_ns
    assert partial_of(root).stat().st_blocks == blocks
    large.write(100_000, DATA[100_000:200_000])
    large.finish()
    one.finish()
    assert (root / "a").read_bytes() == DATA
    assert os.listdir(root) == ["a"]
    assert scanned(root).tree == target_of(DATA).tree


@pytest.mark.parametrize(("why", "stays"), [(errno.EDQUOT, False), (errno.EIO, True)])
def test_a_user_who_may_have_no_more_keeps_no_partial_file(
    root: Path, monkeypatch: pytest.MonkeyPatch, why: int, stays: bool
) -> None:
    def fails(*_: object) -> None:
        raise OSError(why, os.strerror(why))

    one, large = opened(root)
    large.write(0, DATA[:100_000])
    with monkeypatch.context() as patch:
        patch.setattr("filesync.disk.updating.large.write_sparse", fails)
        with pytest.raises(StoreError, match=os.strerror(why)):
            large.write(100_000, DATA[100_000:])
    large.abort()
    one.abort()
    assert (os.listdir(root) == [PARTIAL]) == stays


def test_what_cannot_be_opened_twice_is_let_go_of(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dup = os.dup

    def no_room(fd: int) -> int:
        if PARTIAL in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return dup(fd)

    (root / "a").write_bytes(DATA[::-1])
    interrupted(root, (0, 100_000))
    one = TreeUpdate(root, basis=scanned(root), target=target_of(DATA))
    one.prepare()
    wanted = next(one.wanted())
    with monkeypatch.context() as patch:
        before = os.listdir("/proc/self/fd")
        patch.setattr(os, "dup", no_room)
        with pytest.raises(StoreError, match="Too many open files"):
            one.open_large(wanted)
        assert os.listdir("/proc/self/fd") == before
    large = one.open_large(wanted)
    assert [basis.digest is None for basis in large.bases] == [True, False]
    large.abort()
    one.abort()


def test_a_wanted_file_says_how_much_of_it_is_there(root: Path) -> None:
    interrupted(root, (0, 100_000))
    one = TreeUpdate(root, basis=scanned(root), target=target_of(DATA))
    one.prepare()
    assert 100_000 <= next(one.wanted()).replaces < 110_000
    one.abort()


def test_what_a_killed_process_wrote_is_a_basis(root: Path) -> None:
    def run() -> None:
        _, large = opened(root)
        large.write(4096, DATA[4096:90_000])

    killed(run)
    assert scanned(root).root.entries == ()
    one, large = opened(root)
    assert large.bases[0].size >= 90_000
    large.copy(4096, basis=0, basis_offset=4096, length=90_000 - 4096)
    large.write(90_000, DATA[90_000:])
    large.write(0, DATA[:4096])
    large.finish()
    one.finish()
    assert (root / "a").read_bytes() == DATA
    assert os.listdir(root) == ["a"]


def test_the_next_session_of_one_update_goes_on_too(root: Path) -> None:
    one, large = opened(root)
    large.write(0, DATA[:100_000])
    large.abort()
    large = one.open_large(next(one.wanted()))
    large.copy(0, basis=0, basis_offset=0, length=100_000)
    large.write(100_000, DATA[100_000:])
    large.finish()
    one.finish()
    assert (root / "a").read_bytes() == DATA


def test_a_partial_file_is_for_its_owner_alone_and_no_part_of_the_tree(root: Path) -> None:
    one, large = opened(root)
    large.write(0, DATA[:10_000])
    assert partial_of(root).stat().st_mode & 0o7777 == 0o600
    assert partial_of(root).parent.stat().st_mode & 0o7777 == 0o700
    assert scanned(root).root.entries == ()
    large.abort()
    one.abort()


def test_partial_files_that_are_not_wanted_any_more_are_removed(root: Path) -> None:
    interrupted(root, (0, 100_000))
    other = DATA[::-1]
    one, large = opened(root, other)
    assert large.bases == ()
    assert os.listdir(root / PARTIAL) == [partial_of(root, other).name]
    large.abort()
    one.abort()
    assert os.listdir(root) == []


def test_a_partial_file_whose_content_comes_otherwise_is_removed(root: Path) -> None:
    # As it does where nothing had come of it, it has no basis any more, and it is not so large.
    def run() -> None:
        opened(root)

    killed(run)
    assert partial_of(root).stat().st_blocks == 0
    one = TreeUpdate(root, basis=scanned(root), target=target_of(DATA))
    one.prepare()
    one.write_small([(next(one.wanted()), DATA)])
    one.finish()
    assert os.listdir(root) == ["a"]


def test_a_partial_file_whose_content_is_copied_from_this_machine_is_removed(
    root: Path, tmp_path: Path
) -> None:
    interrupted(root, (0, 100_000))
    (tmp_path / "a").write_bytes(DATA)
    one = TreeUpdate(root, basis=scanned(root), target=target_of(DATA))
    one.prepare()
    with (tmp_path / "a").open("rb") as source:
        assert one.copy(next(one.wanted()), source.fileno())
    one.finish()
    assert os.listdir(root) == ["a"]


def test_a_file_of_which_nothing_came_leaves_nothing(root: Path) -> None:
    interrupted(root)
    assert os.listdir(root) == []


def test_the_file_that_is_replaced_is_a_basis_besides(root: Path) -> None:
    (root / "a").write_bytes(DATA[:150_000])
    interrupted(root, (150_000, 200_000))
    one, large = opened(root)
    assert [basis.size for basis in large.bases][1:] == [150_000]
    large.copy(0, basis=1, basis_offset=0, length=150_000)
    large.copy(150_000, basis=0, basis_offset=150_000, length=50_000)
    large.write(200_000, DATA[200_000:])
    large.finish()
    one.finish()
    assert (root / "a").read_bytes() == DATA


def test_two_updates_do_not_write_to_one_partial_file(root: Path) -> None:
    one, first = opened(root)
    first.write(0, DATA[:100_000])
    two, second = opened(root)
    assert second.bases == ()
    second.write(0, DATA)
    second.finish()
    two.finish()
    assert (root / "a").read_bytes() == DATA
    first.write(100_000, DATA[100_000:])
    first.finish()
    one.abort()
    assert (root / "a").read_bytes() == DATA
    assert os.listdir(root) == ["a"]


# --- contents that are not what they should be --------------------------------------------


def test_garbage_in_a_partial_file_costs_a_try_and_nothing_else(root: Path) -> None:
    interrupted(root, (0, 100_000))
    with partial_of(root).open("r+b") as garbage:
        garbage.write(b"garbage")
    one, large = opened(root)
    large.copy(0, basis=0, basis_offset=0, length=100_000)
    large.write(100_000, DATA[100_000:])
    with pytest.raises(ContentCorrupt):
        large.finish()
    assert not partial_of(root).exists()
    large = one.open_large(next(one.wanted()))
    assert large.bases == ()
    large.write(0, DATA)
    large.finish()
    one.finish()
    assert (root / "a").read_bytes() == DATA


def test_zeros_are_written_over_what_a_partial_file_has(root: Path) -> None:
    data = bytes(100_000) + DATA
    one, large = opened(root, data)
    large.write(0, DATA[:50_000])
    large.abort()
    one.abort()
    one, large = opened(root, data)
    large.write(0, data)
    large.finish()
    one.finish()
    assert (root / "a").read_bytes() == data


def test_a_hole_that_is_filled_meanwhile_still_reads_as_zeros(root: Path) -> None:
    data = DATA[:40_960] + bytes(40_960) + DATA[40_960:81_920]
    one, large = opened(root, data)
    large.write(81_920, data[81_920:])
    large.abort()
    one.abort()
    one, large = opened(root, data)
    assert os.pread(large.bases[0].fd, 40_960, 0) == bytes(40_960)
    large.write(0, data[:40_960])
    large.copy(40_960, basis=0, basis_offset=0, length=40_960)
    large.copy(81_920, basis=0, basis_offset=81_920, length=40_960)
    large.finish()
    one.finish()
    assert (root / "a").read_bytes() == data


def test_bytes_that_change_after_they_were_hashed_are_noticed(root: Path) -> None:
    one, large = opened(root)
    large.write(0, DATA)
    large.write(10, b"other")
    with pytest.raises(ContentCorrupt):
        large.finish()
    one.abort()


@given(
    st.lists(st.tuples(st.integers(0, 79), st.integers(1, 20)), max_size=8),
    st.randoms(use_true_random=False),
    st.sampled_from(["random", "zeros", "mixed"]),
)
def test_any_interruption_is_gone_on_from(
    pieces: list[tuple[int, int]], order: random.Random, kind: str
) -> None:
    block = 5000
    noise = [DATA[n * 1000 :][:block] for n in range(80)]
    blocks = {
        "random": noise,
        "zeros": [bytes(block)] * 80,
        "mixed": [bytes(block) if n % 7 < 3 else noise[n % 30] for n in range(80)],
    }[kind]
    data = b"".join(blocks)
    path = Path(tempfile.mkdtemp(prefix="resume-"))
    try:
        one, large = opened(path, data)
        for start, count in pieces:
            end = min(start + count, 80)
            large.write(start * block, data[start * block : end * block])
        large.abort()
        one.abort()
        one, large = opened(path, data)
        found: dict[bytes, int] = {}
        if large.bases:
            has = os.pread(large.bases[0].fd, len(data), 0)
            for n in range(80):
                found.setdefault(has[n * block : (n + 1) * block], n * block)
        todo = list(enumerate(blocks))
        order.shuffle(todo)
        for n, wanted in todo:
            if (at := found.get(wanted)) is not None and at + block <= large.bases[0].size:
                large.copy(n * block, basis=0, basis_offset=at, length=block)
            else:
                large.write(n * block, wanted)
        large.finish()
        one.finish()
        assert (path / "a").read_bytes() == data
        assert os.listdir(path) == ["a"]
    finally:
        remove_path(path)


# --- what others may have put there -------------------------------------------------------


def test_a_partial_file_that_has_another_name_is_not_written_to(root: Path) -> None:
    interrupted(root, (0, 100_000))
    precious = root.parent / "precious"
    precious.write_bytes(b"precious")
    precious.chmod(0o600)
    partial_of(root).unlink()
    os.link(precious, partial_of(root))
    one, large = opened(root)
    assert large.bases == ()
    large.write(0, DATA)
    large.finish()
    one.finish()
    assert precious.read_bytes() == b"precious"


def test_a_link_in_place_of_a_partial_file_is_not_followed(root: Path) -> None:
    interrupted(root, (0, 100_000))
    precious = root.parent / "precious"
    precious.write_bytes(b"precious")
    partial_of(root).unlink()
    partial_of(root).symlink_to(precious)
    one, large = opened(root)
    large.write(0, DATA)
    large.finish()
    one.finish()
    assert precious.read_bytes() == b"precious"
    assert not (root / "a").is_symlink()


@pytest.mark.parametrize("mode", [0o622, 0o4600, 0o640])
def test_a_partial_file_that_others_could_reach_is_not_trusted(root: Path, mode: int) -> None:
    interrupted(root, (0, 100_000))
    partial_of(root).chmod(mode)
    one, large = opened(root)
    assert large.bases == ()
    large.abort()
    one.abort()


@pytest.mark.needs("root")
def test_a_partial_file_of_another_user_is_not_trusted(root: Path) -> None:
    interrupted(root, (0, 100_000))
    os.chown(partial_of(root), 1000, 0)
    one, large = opened(root)
    assert large.bases == ()
    large.abort()
    one.abort()


@pytest.mark.needs("root")
def test_a_directory_of_partial_files_of_another_user_is_removed(root: Path) -> None:
    interrupted(root, (0, 100_000))
    os.chown(root / PARTIAL, 1000, 0)
    one, large = opened(root)
    assert large.bases == ()
    large.abort()
    one.abort()
    assert os.listdir(root) == []


def test_a_directory_of_partial_files_that_others_could_reach_is_removed(root: Path) -> None:
    interrupted(root, (0, 100_000))
    (root / PARTIAL).chmod(0o777)
    one, large = opened(root)
    assert large.bases == ()
    large.abort()
    one.abort()
    assert os.listdir(root) == []


def test_a_link_in_place_of_the_directory_is_removed(root: Path) -> None:
    elsewhere = root.parent / "elsewhere"
    elsewhere.mkdir(0o700)
    (root / PARTIAL).symlink_to(elsewhere)
    one, large = opened(root)
    large.write(0, DATA)
    assert os.listdir(elsewhere) == []
    large.finish()
    one.finish()
    assert os.listdir(root) == ["a"]


def test_other_names_among_the_partial_files_are_removed(root: Path) -> None:
    interrupted(root, (0, 100_000))
    (root / PARTIAL / "directory").mkdir()
    (root / PARTIAL / "directory" / "in it").write_bytes(b"1")
    (root / PARTIAL / partial_of(root).name.upper()).write_bytes(b"1")
    (root / PARTIAL / "no digest").touch(0o600)
    one, large = opened(root)
    assert os.listdir(root / PARTIAL) == [partial_of(root).name]
    large.abort()
    one.abort()


def test_holes_beside_what_was_left_stay_holes(root: Path) -> None:
    data = DATA[:100_000] + bytes(5 << 20) + DATA[:100_000]
    one, large = opened(root, data)
    large.write(0, data[:100_000])
    large.write(len(data) - 50_000, data[-50_000:])
    large.abort()
    one.abort()
    one, large = opened(root, data)
    for at in range(0, len(data), 1 << 20):
        large.write(at, data[at : at + (1 << 20)])
    large.finish()
    one.finish()
    assert (root / "a").read_bytes() == data
    assert (root / "a").stat().st_blocks * 512 < 300_000
