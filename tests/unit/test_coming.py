"""A file that is read while it comes: in any order of pieces, cut, stopped, or come anew."""

import os
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.layers.test_layer_law import scratch
from worker.moving.coming import ComingFile
from worker.moving.errors import CameOtherwise

DATA = bytes(range(256)) * 40


def coming(path: Path, size: int = len(DATA)) -> ComingFile:
    return ComingFile(path, size, on_begun=lambda: None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as one:
        yield one


def read_all(file: ComingFile) -> bytes:
    return b"".join(iter(lambda: file.read(1000), b""))


@given(st.lists(st.integers(1, len(DATA) - 1), max_size=8, unique=True), st.randoms())
def test_pieces_may_come_in_any_order(cuts: list[int], order: random.Random) -> None:
    edges = [0, *sorted(cuts), len(DATA)]
    pieces = list(pairwise(edges))
    order.shuffle(pieces)
    with scratch() as at, ThreadPoolExecutor(1) as pool:
        fd = os.open(at / "file", os.O_RDWR | os.O_CREAT)
        file = coming(at / "file")
        file.begin(fd)
        reading = pool.submit(read_all, file)
        for start, end in pieces:
            os.pwrite(fd, DATA[start:end], start)
            file.note(start, end - start)
        assert reading.result() == DATA
        file.close()
        os.close(fd)


def test_what_has_not_come_is_not_read(path: Path, pool: ThreadPoolExecutor) -> None:
    path.write_bytes(DATA)
    with path.open("rb") as written:
        file = coming(path)
        file.begin(written.fileno())
        file.note(0, 100)
        assert file.read(1000) == DATA[:100]
        waiting = pool.submit(file.read, 1000)
        file.note(500, 100)
        assert not waiting.done()
        file.note(100, 400)
        assert waiting.result() == DATA[100:600]
        file.close()


def test_a_file_that_was_never_begun_is_read_once_it_is_there(
    path: Path, pool: ThreadPoolExecutor
) -> None:
    file = coming(path)
    reading = pool.submit(read_all, file)
    path.write_bytes(DATA)
    file.end()
    assert reading.result() == DATA
    file.close()


def test_a_file_that_does_not_come_is_an_error(path: Path) -> None:
    file = coming(path)
    file.end()
    with pytest.raises(CameOtherwise, match="did not come"):
        file.read(1)


def test_a_file_that_ends_early_is_an_error(path: Path) -> None:
    path.write_bytes(DATA)
    with path.open("rb") as written:
        file = coming(path)
        file.begin(written.fileno())
        file.note(0, 100)
        file.end()
        assert file.read(100) == DATA[:100]
        with pytest.raises(CameOtherwise, match="did not come to its end"):
            file.read(100)
        file.close()


def test_what_was_read_of_a_file_that_comes_anew_is_worth_nothing(path: Path) -> None:
    path.write_bytes(DATA)
    with path.open("rb") as written:
        file = coming(path)
        file.begin(written.fileno())
        file.note(0, 100)
        file.read(50)
        file.begin(written.fileno())
        file.note(0, len(DATA))
        with pytest.raises(CameOtherwise, match="came anew"):
            file.read(50)
        file.rewind()
        assert read_all(file) == DATA
        file.close()


def test_a_reader_that_waits_can_be_stopped(path: Path, pool: ThreadPoolExecutor) -> None:
    began = threading.Event()
    file = ComingFile(path, 10, on_begun=began.set)
    path.write_bytes(DATA)
    with path.open("rb") as written:
        file.begin(written.fileno())
    assert began.is_set()
    waiting = pool.submit(file.read, 10)
    file.stop()
    with pytest.raises(CameOtherwise):
        waiting.result()
    file.close()
