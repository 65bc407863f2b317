"""Trees that are passed on while they come: which of their files are waited for."""

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from filesync.digest import Digest, digest_of
from filesync.disk.scanning.scan import scan
from filesync.errors import Unavailable
from filesync.manifest import Manifest, MemoryNodes
from filesync.transfer.errors import NotOffered
from filesync.transfer.wire import Level, Range
from filesync.trees.select import Pick, Selector, select
from worker.moving.passedtree import PassedTree
from worker.moving.passing import PassedFile, Passing

FILES = {"a": b"the first", "d/b": b"the second", "d/e/c": b"the third one"}
SOON = 5.0
LONG_AGO = 0.01


class Rig:
    """A tree as it is elsewhere, and a directory here that it comes to."""

    def __init__(self, root: Path, *, begin_s: float = SOON) -> None:
        self.there, self.here = root / "there", root / "here"
        for name, data in FILES.items():
            (self.there / name).parent.mkdir(parents=True, exist_ok=True)
            (self.there / name).write_bytes(data)
            os.utime(self.there / name, ns=(1, 1_700_000_000_123_456_789))
        self.here.mkdir()
        nodes = MemoryNodes()
        self.tree = Manifest(scan(self.there, nodes).tree, nodes)
        self.passing = Passing(begin_s=begin_s)
        self.asked_for = self.passing.asked_for(self.tree.tree)
        self.asked_for.__enter__()
        self.source = PassedTree(self.passing, self.tree, self.tree.tree)
        self.source.load()

    def put(self, name: str, data: bytes | None = None) -> None:
        """Have a file come, as an update writes it: it gets its time last."""
        path = self.here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(FILES[name] if data is None else data)
        os.utime(path, ns=(1, 1_700_000_000_123_456_789))

    def asked(self, *names: str) -> "asyncio.Task[bytes]":
        """Ask for files, as a session does."""

        async def ask() -> bytes:
            ranges = [(digest_of(FILES[name]), 0, len(FILES[name])) for name in names]
            await self.source.come(ranges)
            return bytes(await asyncio.to_thread(self.source.read, ranges))

        return asyncio.create_task(ask())


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def waits(task: "asyncio.Task[bytes]") -> bool:
    await asyncio.sleep(0.02)
    return not task.done()


async def test_files_that_have_come_are_given(rig: Rig) -> None:
    with rig.passing.coming_tree(rig.tree.tree, rig.here):
        rig.put("a")
        rig.put("d/e/c")
        assert await rig.asked("a", "d/e/c") == FILES["a"] + FILES["d/e/c"]


async def test_a_file_that_has_not_come_is_waited_for(rig: Rig) -> None:
    with rig.passing.coming_tree(rig.tree.tree, rig.here) as tree:
        rig.put("a")
        asked = rig.asked("a", "d/b")
        assert await waits(asked)
        rig.put("d/b")
        tree.on_come()
        assert await asked == FILES["a"] + FILES["d/b"]


@pytest.mark.parametrize("data", [b"", b"the secon"], ids=["empty", "cut"])
async def test_a_file_that_is_not_whole_is_waited_for(rig: Rig, data: bytes) -> None:
    with rig.passing.coming_tree(rig.tree.tree, rig.here) as tree:
        rig.put("d/b", data)
        asked = rig.asked("d/b")
        assert await waits(asked)
        rig.put("d/b")
        tree.on_come()
        assert await asked == FILES["d/b"]


async def test_a_file_that_has_not_got_its_time_is_not_taken_for_whole(rig: Rig) -> None:
    with rig.passing.coming_tree(rig.tree.tree, rig.here):
        rig.put("a")
        os.utime(rig.here / "a")
        asked = rig.asked("a")
        assert await waits(asked)
        asked.cancel()


async def test_a_tree_that_is_about_to_come_is_waited_for(rig: Rig) -> None:
    asked = rig.asked("a")
    assert await waits(asked)
    rig.put("a")
    with rig.passing.coming_tree(rig.tree.tree, rig.here):
        assert await asked == FILES["a"]


async def test_a_tree_that_does_not_come_is_not_waited_for_long(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="not on its way"):
        await Rig(tmp_path, begin_s=LONG_AGO).asked("a")


async def test_a_tree_that_does_not_come_after_all_is_not_waited_for_long(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path, begin_s=LONG_AGO)
    with suppress(KeyError), rig.passing.coming_tree(rig.tree.tree, rig.here):
        asked = rig.asked("a")
        await asyncio.sleep(5 * LONG_AGO)
        raise KeyError
    with pytest.raises(Unavailable, match="not on its way"):
        await asked


async def test_who_is_behind_gets_what_has_come_before(rig: Rig) -> None:
    with rig.passing.coming_tree(rig.tree.tree, rig.here):
        rig.put("a")
    assert await rig.asked("a") == FILES["a"]


async def test_a_tree_can_be_asked_for_once_it_has_begun_to_come(rig: Rig) -> None:
    rig.asked_for.__exit__(None, None, None)
    with rig.passing.coming_tree(rig.tree.tree, rig.here):
        rig.put("a")
        with rig.passing.asked_for(rig.tree.tree):
            assert await rig.asked("a") == FILES["a"]


async def test_a_tree_is_passed_on_until_the_last_who_asked_for_it_needs_it_no_more(
    rig: Rig,
) -> None:
    with rig.passing.asked_for(rig.tree.tree):
        with rig.passing.coming_tree(rig.tree.tree, rig.here):
            rig.put("a")
        rig.asked_for.__exit__(None, None, None)
        assert await rig.asked("a") == FILES["a"]
    assert rig.passing.directory_of(rig.tree.tree) is None


async def test_a_part_of_a_tree_is_given_as_the_whole_comes(rig: Rig) -> None:
    nodes = MemoryNodes()
    whole = Manifest(scan(rig.there, nodes).tree, nodes)
    part = select(whole, Selector((Pick("/d"),)), nodes)
    source = PassedTree(rig.passing, part, whole.tree)
    source.load()
    ranges = [(digest_of(FILES["d/b"]), 0, len(FILES["d/b"]))]
    coming = asyncio.create_task(source.come(ranges))
    with rig.passing.coming_tree(whole.tree, rig.here) as tree:
        rig.put("a")
        tree.on_come()
        await asyncio.sleep(0.02)
        assert not coming.done()
        rig.put("d/b")
        tree.on_come()
        await coming
        assert source.read(ranges) == FILES["d/b"]
        with pytest.raises(NotOffered):
            await source.come([(digest_of(FILES["a"]), 0, 1)])


async def test_a_tree_that_comes_anew_is_read_where_it_comes_to_now(rig: Rig) -> None:
    with rig.passing.coming_tree(rig.tree.tree, rig.here):
        rig.put("a")
        assert await rig.asked("a") == FILES["a"]
    with rig.passing.coming_tree(rig.tree.tree, rig.there):
        (rig.here / "a").unlink()
        assert await rig.asked("a", "d/b") == FILES["a"] + FILES["d/b"]


async def test_a_tree_that_comes_twice_at_once_is_not_lost_with_one_that_fails(
    rig: Rig,
) -> None:
    with suppress(KeyError), rig.passing.coming_tree(rig.tree.tree, rig.here):
        with rig.passing.coming_tree(rig.tree.tree, rig.there):
            assert await rig.asked("a") == FILES["a"]
        raise KeyError
    assert rig.passing.directory_of(rig.tree.tree) == rig.there


@contextmanager
def large(rig: Rig) -> Iterator[tuple[PassedFile, Callable[[int, int], None]]]:
    """Have the tree come; give a large file of it, and what writes of that from here to there."""
    content, data = digest_of(FILES["d/e/c"]), FILES["d/e/c"]
    with (
        rig.passing.coming_tree(rig.tree.tree, rig.here) as tree,
        tree.coming(content) as file,
        tempfile.TemporaryFile() as writing,
    ):
        file.begin(writing.fileno())

        def write(start: int, end: int) -> None:
            os.pwrite(writing.fileno(), data[start:end], start)
            file.note(start, end - start)

        yield file, write


def ranges_of(name: str, start: int, end: int) -> list[Range]:
    return [(digest_of(FILES[name]), start, end - start)]


async def test_a_large_file_is_given_as_it_comes(rig: Rig) -> None:
    data = FILES["d/e/c"]
    start, rest = ranges_of("d/e/c", 1, 4), ranges_of("d/e/c", 4, len(data))
    with large(rig) as (_, write):
        write(0, 4)
        await rig.source.come(start)
        assert rig.source.read(start) == data[1:4]
        coming = asyncio.create_task(rig.source.come(rest))
        await asyncio.sleep(0.02)
        assert not coming.done()
        await asyncio.to_thread(write, 4, len(data))
        await coming
        assert rig.source.read(rest) == data[4:]


async def test_a_large_file_that_has_come_is_given_under_its_name(rig: Rig) -> None:
    with large(rig):
        asked = rig.asked("d/e/c")
        assert await waits(asked)
        rig.put("d/e/c")
    assert await asked == FILES["d/e/c"]


async def test_a_large_file_that_comes_no_more_is_to_be_had_elsewhere(rig: Rig) -> None:
    ranges = ranges_of("d/e/c", 0, 4)
    with large(rig) as (file, write):
        write(0, 4)
        await rig.source.come(ranges)
        file.close()
        with pytest.raises(Unavailable):
            rig.source.read(ranges)


async def test_of_a_large_file_that_comes_for_another_tree_nothing_is_given(rig: Rig) -> None:
    other = digest_of(b"another")
    with rig.passing.coming_tree(rig.tree.tree, rig.here) as tree, tree.coming(other):
        with pytest.raises(NotOffered):
            await rig.source.come([(other, 0, 1)])
        with pytest.raises(NotOffered):
            rig.source.read([(other, 0, 1)])


async def test_nothing_else_is_on_offer(rig: Rig) -> None:
    with pytest.raises(NotOffered):
        await rig.source.come([(digest_of(b"another"), 0, 1)])


async def test_what_is_not_there_any_more_is_told(rig: Rig) -> None:
    rig.asked_for.__exit__(None, None, None)
    with pytest.raises(Unavailable, match="no more"):
        rig.source.read([(digest_of(FILES["a"]), 0, 1)])


async def test_threads_that_read_at_once_leave_no_directory_open(rig: Rig) -> None:
    before = os.listdir("/proc/self/fd")
    ranges = [(digest_of(FILES["d/b"]), 0, 3)]
    rig.put("d/b")
    with rig.passing.coming_tree(rig.tree.tree, rig.here):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: rig.source.read(ranges), range(400)))
        rig.source.close()
        with pytest.raises(Unavailable, match="no more"):  # who was about to read
            rig.source.read(ranges)
    assert len(os.listdir("/proc/self/fd")) == len(before)


async def test_deltas_are_of_files_that_are_whole(rig: Rig) -> None:
    def recipe(name: str) -> bytes:
        digest: Digest = digest_of(FILES[name])
        return rig.source.recipes([(digest, 0, len(FILES[name]), Level.CHUNKS)])

    with rig.passing.coming_tree(rig.tree.tree, rig.here):
        rig.put("a")
        assert recipe("a")
        with pytest.raises(Unavailable):
            recipe("d/b")
