import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from filesync.disk.updating.incoming import WantedFile
from filesync.errors import ContentCorrupt, PeerError
from filesync.transfer.coding.recipecache import RecipeCache
from filesync.transfer.receive.effects import BATCHES_AT_ONCE, Effects
from filesync.transfer.receive.fetch import Fetch
from filesync.transfer.receive.session_zmq import Event
from filesync.transfer.receive.units import Batch, Coded, Piece, StoreBatch
from filesync.transfer.stats import PullStats
from filesync.transfer.wire import Buffer, Codec
from tests.unit.made import wanted

P = ParamSpec("P")
T = TypeVar("T")


class CountingThread(ThreadPoolExecutor):
    """One thread, and how often it was given something to do."""

    def __init__(self) -> None:
        super().__init__(1)
        self.turns = 0

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        self.turns += 1
        return super().submit(fn, *args, **kwargs)


class Told(Fetch):
    """A fetch that takes down what it is told of batches."""

    def __init__(self) -> None:
        super().__init__(window_bytes=1 << 20)
        self.effects.clear()
        self.kept: list[Batch | Piece] = []
        self.given_back: list[Batch | Piece] = []

    def stored(self, unit: Batch | Piece) -> None:
        self.kept.append(unit)

    def give_back(self, units: Sequence[Batch | Piece], asks: Sequence[object]) -> None:
        self.given_back += units


class SmallFiles:
    """An update that takes small files, and believes none that holds b"wrong"."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def wanted(self) -> Iterator[WantedFile]:
        return iter(())

    def write_small(self, batch: Sequence[tuple[WantedFile, Buffer]]) -> None:
        for _, data in batch:
            if bytes(data) == b"wrong":
                raise ContentCorrupt("this is not it")
            self.written.append(bytes(data))

    def abort(self) -> None:
        pass

    prepare = finish = open_large = read_basis = None


async def stored(*contents: bytes) -> tuple[Told, SmallFiles, int, list[int]]:
    """Have batches of one file each stored, each by a session of its own, all at once."""
    fetch, update, thread = Told(), SmallFiles(), CountingThread()
    inbox: asyncio.Queue[Event] = asyncio.Queue()
    blamed: list[int] = []

    def blame(session: int, error: PeerError) -> None:
        blamed.append(session)

    effects = Effects(
        fetch,
        update,  # type: ignore[arg-type]  # what it lacks is not called
        inbox,
        pool=thread,
        stats=PullStats(),
        feed=None,
        edits={},
        recipes=RecipeCache(),
        blame=blame,
        on_progress=lambda: None,
    )
    for session, content in enumerate(contents):
        batch = Batch((wanted(content, session, len(content)),), len(content))
        coded = Coded(Codec.RAW, content, len(content))
        fetch.effects.append(StoreBatch(session, batch, (coded,)))
    effects.perform()
    while len(fetch.kept) + len(fetch.given_back) < len(contents):
        (await inbox.get())()
    turns = thread.turns
    await effects.stop()
    return fetch, update, turns, blamed


async def test_batches_that_wait_are_written_in_few_turns_of_the_disk() -> None:
    contents = [b"%d" % number for number in range(2 * BATCHES_AT_ONCE + 1)]
    _, update, turns, _ = await stored(*contents)
    assert update.written == contents
    assert turns == 3


async def test_a_batch_that_is_wrong_is_asked_for_again_and_those_beside_it_are_kept() -> None:
    fetch, update, turns, blamed = await stored(b"one", b"wrong", b"three")
    assert update.written == [b"one", b"three"]
    assert turns == 1
    assert [batch.files[0].ticket for batch in fetch.kept if isinstance(batch, Batch)] == [0, 2]
    assert [batch.size for batch in fetch.given_back] == [len(b"wrong")]
    assert blamed == [1]
