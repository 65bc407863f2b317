import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filesync.digest import Digest, digest_of
from filesync.disk.updating import trailing
from filesync.disk.updating.trailing import TrailingHash

SIZE = 40_000
DATA = random.Random(1).randbytes(SIZE)


@contextmanager
def file() -> Iterator[int]:
    fd = os.memfd_create("file")
    os.ftruncate(fd, SIZE)
    yield fd
    os.close(fd)


@pytest.fixture
def fd() -> Iterator[int]:
    with file() as fd:
        yield fd


@pytest.fixture(params=["inline", "beside"])
def _beside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "beside":
        monkeypatch.setattr(trailing, "BESIDE_BYTES", 1)


cuts = st.lists(st.integers(1, SIZE - 1), unique=True, max_size=30).map(sorted)


@given(cuts, st.booleans(), st.randoms(use_true_random=False))
def test_the_order_of_writing_does_not_matter(
    cuts: list[int], beside: bool, rng: random.Random
) -> None:
    runs = list(zip([0, *cuts], [*cuts, SIZE], strict=True))
    rng.shuffle(runs)
    with file() as fd, pytest.MonkeyPatch.context() as patch:
        patch.setattr(trailing, "BESIDE_BYTES", 1 if beside else SIZE + 1)
        assert digest_of_what_is_written(fd, runs, rng) == digest_of(DATA)


def digest_of_what_is_written(
    fd: int, runs: list[tuple[int, int]], rng: random.Random
) -> Digest:
    trail = TrailingHash(fd, SIZE)
    for start, end in runs:
        data = DATA[start:end]
        os.pwrite(fd, data, start)
        match rng.randrange(3):
            case 0:
                trail.write(start, data)
            case 1:
                trail.copied(start, memoryview(data))
            case _:
                trail.note(start, len(data))
    digest = trail.digest()
    trail.close()
    return digest


@pytest.mark.usefixtures("_beside")
@pytest.mark.parametrize("order", [(0, 1, 0), (1, 0, 0), (0, 1, 1)])
def test_what_is_written_over_is_read_again(fd: int, order: tuple[int, ...]) -> None:
    half = SIZE // 2
    trail = TrailingHash(fd, SIZE)
    for turn, part in enumerate(order):
        data = (
            DATA[part * half : (part + 1) * half]
            if turn == 2 or part != order[2]
            else b"?" * half
        )
        os.pwrite(fd, data, part * half)
        trail.write(part * half, data)
    assert trail.digest() == digest_of(DATA)
    trail.close()


@pytest.mark.usefixtures("_beside")
@pytest.mark.parametrize(
    "runs",
    [
        [(50, 100), (100, 200), (50, 100), (0, 50), (100, 200)],
        [(50, 100), (100, 200), (100, 150), (150, 200), (200, 300), (0, 50), (50, 300)],
    ],
)
def test_what_is_told_of_twice_is_hashed_as_the_disk_has_it(
    fd: int, runs: list[tuple[int, int]]
) -> None:
    trail = TrailingHash(fd, SIZE)
    last = runs[-1]
    disk = DATA[: last[0]] + b"?" * (last[1] - last[0]) + DATA[last[1] :]
    os.pwrite(fd, disk, 0)
    for start, end in [*runs, (last[1], SIZE)]:
        # A write of zeros leaves what is there, as nobody is to write to one place twice.
        trail.write(start, DATA[start:end])
    assert trail.digest() == digest_of(disk)
    trail.close()


@pytest.mark.usefixtures("_beside")
def test_what_nobody_has_written_is_hashed_as_it_is(fd: int) -> None:
    trail = TrailingHash(fd, SIZE)
    os.pwrite(fd, DATA[10_000:], 10_000)
    trail.note(10_000, SIZE - 10_000)
    assert trail.digest() == digest_of(bytes(10_000) + DATA[10_000:])
    trail.close()


@pytest.mark.usefixtures("_beside")
def test_a_file_that_became_shorter_has_the_digest_of_what_is_left(fd: int) -> None:
    trail = TrailingHash(fd, SIZE)
    os.pwrite(fd, DATA[:1000], 0)
    os.ftruncate(fd, 1000)
    trail.note(0, SIZE)
    assert trail.digest() == digest_of(DATA[:1000])
    trail.close()
    trail.close()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes are read, each time."""
    read: list[int] = []
    preadv = os.preadv

    def counting(fd: int, buffers: list[memoryview], offset: int) -> int:
        read.append(preadv(fd, buffers, offset))
        return read[-1]

    monkeypatch.setattr(os, "preadv", counting)
    return read


def test_in_order_nothing_is_read_again(
    fd: int, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trailing, "BESIDE_BYTES", 1)
    trail = TrailingHash(fd, SIZE)
    os.pwrite(fd, DATA, 0)
    for at in range(0, 30_000, 10_000):
        trail.write(at, DATA[at : at + 10_000])
    assert not read
    trail.note(30_000, 10_000)
    assert trail.digest() == digest_of(DATA)
    assert read == [10_000]
    trail.close()


@pytest.mark.usefixtures("_beside")
def test_what_comes_ahead_is_read_once_and_by_nobody_any_more_in_the_end(
    fd: int, read: list[int]
) -> None:
    trail = TrailingHash(fd, SIZE)
    os.pwrite(fd, DATA, 0)
    trail.write(30_000, DATA[30_000:])
    trail.write(10_000, DATA[10_000:30_000])
    trail.write(0, DATA[:10_000])
    assert trail.digest() == digest_of(DATA)
    assert sum(read) == 30_000
    trail.close()
    assert not [one for one in threading.enumerate() if one.name.startswith("filesync-hash")]


def test_many_runs_in_front_of_a_gap_cost_no_memory_and_give_the_digest(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trailing, "_MAX_AHEAD", 3)
    trail = TrailingHash(fd, SIZE)
    os.pwrite(fd, DATA, 0)
    for at in range(2, SIZE, 2):
        trail.note(at, 1)
        assert len(trail._ends) <= 3
    assert trail.digest() == digest_of(DATA)
    trail.close()


def test_runs_in_front_of_a_gap_that_touch_are_one(fd: int, read: list[int]) -> None:
    trail = TrailingHash(fd, SIZE)
    os.pwrite(fd, DATA, 0)
    for at in range(100, SIZE, 100):
        trail.note(at, 100)
        assert len(trail._ends) == 1
    trail.write(0, DATA[:100])
    assert trail.digest() == digest_of(DATA)
    assert sum(read) == SIZE - 100
    trail.close()


def test_what_comes_next_waits_for_the_thread_that_hashes_what_is_before_it(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_read, may_go_on, preadv = threading.Event(), threading.Event(), os.preadv

    def slow(fd: int, buffers: list[memoryview], offset: int) -> int:
        is_read.set()
        assert may_go_on.wait(10)
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", slow)
    monkeypatch.setattr(trailing, "BESIDE_BYTES", 1)
    trail = TrailingHash(fd, SIZE)
    os.pwrite(fd, DATA, 0)
    trail.note(0, 10_000)
    assert is_read.wait(10)
    trail.write(10_000, DATA[10_000:])
    may_go_on.set()
    assert trail.digest() == digest_of(DATA)
    trail.close()


def test_once_the_thread_has_come_to_a_gap_what_comes_next_is_hashed_at_once_again(
    fd: int, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trailing, "BESIDE_BYTES", 1)
    trail = TrailingHash(fd, SIZE)
    os.pwrite(fd, DATA, 0)
    trail.note(0, 10_000)
    if (running := trail._trailing) is not None:
        running.result()
    trail.write(10_000, DATA[10_000:])
    assert trail.digest() == digest_of(DATA)
    assert sum(read) == 10_000
    trail.close()


@pytest.mark.parametrize(("beside_bytes", "again_bytes"), [(SIZE + 1, 0), (SIZE, SIZE)])
def test_what_is_copied_is_read_again_only_where_a_thread_does_it_beside(
    fd: int,
    read: list[int],
    monkeypatch: pytest.MonkeyPatch,
    beside_bytes: int,
    again_bytes: int,
) -> None:
    monkeypatch.setattr(trailing, "BESIDE_BYTES", beside_bytes)
    trail = TrailingHash(fd, SIZE)
    os.pwrite(fd, DATA, 0)
    trail.copied(0, memoryview(DATA))
    assert trail.digest() == digest_of(DATA)
    assert sum(read) == again_bytes
    trail.close()
