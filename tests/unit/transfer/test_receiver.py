import random
from collections import deque
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filesync.digest import Digest, digest_of
from filesync.disk.update import WantedFile
from filesync.errors import ContentCorrupt, MalformedMessage, Unavailable, UnexpectedMessage
from filesync.transfer import recipe
from filesync.transfer.errors import Refused
from filesync.transfer.receiver import (
    DELTA_BYTES,
    PROGRESS_BYTES,
    SMALL_BYTES,
    CopyRanges,
    Effect,
    Finish,
    FinishFile,
    NeedFiles,
    OpenBasis,
    Piece,
    Receiver,
    Send,
    State,
    Store,
    is_whole,
)
from filesync.transfer.recipe import Basis, Chunk
from filesync.transfer.wire import (
    AskRecipe,
    Close,
    Codec,
    Frame,
    Open,
    Opened,
    Range,
    Recipe,
    Refuse,
    Want,
)

TOKEN = bytes(16)
TREE = digest_of(b"tree")


def wanted(data: bytes, ticket: int = 0, replaces: int = 0) -> WantedFile:
    return WantedFile(ticket, digest_of(data), len(data), replaces)


def reader(data: bytes) -> recipe.Read:
    return lambda offset, length: data[offset : offset + length]


def receiver(window_bytes: int = 1 << 20) -> Receiver:
    return Receiver(
        1, TOKEN, TREE, now=0.0, window_bytes=window_bytes, opening_s=10.0, stall_s=60.0
    )


def moving(*files: WantedFile, window_bytes: int = 1 << 20) -> tuple[Receiver, list[Effect]]:
    machine = receiver(window_bytes)
    assert machine.receive(Opened(1), b"", 1.0) == [NeedFiles()]
    return machine, machine.add(files, is_last=True, now=1.0)


A = b"a" * 100
FILE_A = wanted(A)


def test_it_opens_with_its_token_and_the_tree_that_it_expects() -> None:
    assert receiver().start() == [Send(Open(1, TOKEN, TREE))]


def test_a_small_file_is_wanted_whole_and_stored_and_the_session_closes() -> None:
    machine, effects = moving(FILE_A)
    assert effects == [Send(Want(1, ((FILE_A.digest, 0, 100),)))]
    store = Store(Codec.RAW, A, 100, (Piece(FILE_A, 0, 100),))
    assert machine.receive(Frame(1, 100), A, 2.0) == [store]
    assert machine.stored(store.pieces, 3.0) == [Send(Close(1)), Finish()]
    assert machine.state is State.CLOSED
    assert machine.pending == {}
    assert machine.files_done == 1


def test_nothing_to_fetch_closes_the_session_at_once() -> None:
    assert moving()[1] == [Send(Close(1)), Finish()]


def test_room_is_asked_for_again_only_after_the_write() -> None:
    big = wanted(bytes(SMALL_BYTES * 4))
    machine, effects = moving(big, window_bytes=SMALL_BYTES)
    assert effects == [Send(Want(1, ((big.digest, 0, SMALL_BYTES),)))]
    store = machine.receive(Frame(1, SMALL_BYTES), b"", 2.0)[0]
    assert isinstance(store, Store)
    assert machine.stored(store.pieces, 3.0) == [
        Send(Want(1, ((big.digest, SMALL_BYTES, SMALL_BYTES),)))
    ]


def test_more_data_than_was_wanted_is_refused() -> None:
    machine, _ = moving(FILE_A)
    with pytest.raises(UnexpectedMessage, match="more than was wanted"):
        machine.receive(Frame(1, 101), bytes(101), 2.0)


def test_data_before_anything_was_wanted_is_refused() -> None:
    with pytest.raises(UnexpectedMessage, match="while opening"):
        receiver().receive(Frame(1, 1), b"x", 1.0)


def test_opened_twice_is_refused() -> None:
    machine, _ = moving(FILE_A)
    with pytest.raises(UnexpectedMessage):
        machine.receive(Opened(1), b"", 1.0)


def test_a_recipe_that_was_not_asked_for_is_refused() -> None:
    machine, _ = moving(FILE_A)
    with pytest.raises(UnexpectedMessage, match="was not asked for"):
        machine.receive(Recipe(1, FILE_A.digest, 0), bytes(36), 1.0)


def test_a_refusal_ends_the_session_with_the_peers_reason() -> None:
    machine, _ = moving(FILE_A)
    with pytest.raises(Refused) as caught:
        machine.receive(Refuse(1, "source-changed", "it did"), b"", 2.0)
    assert caught.value.reason == "source-changed"
    assert machine.pending == {0: FILE_A}


def test_no_answer_to_the_opening_is_unavailable() -> None:
    machine = receiver()
    machine.expire(9.9)
    with pytest.raises(Unavailable, match="while opening"):
        machine.expire(10.0)


def test_silence_while_something_is_wanted_is_unavailable() -> None:
    machine, _ = moving(FILE_A)
    assert machine.deadline == 61.0
    with pytest.raises(Unavailable):
        machine.expire(61.0)


def test_a_byte_at_a_time_is_no_progress() -> None:
    big = wanted(bytes(SMALL_BYTES * 4))
    machine, _ = moving(big)
    for second in range(50):
        machine.receive(Frame(1, 1), b"x", float(second))
    assert machine.deadline == 61.0
    machine.receive(Frame(1, PROGRESS_BYTES), b"", 55.0)
    assert machine.deadline == 115.0


def test_there_is_no_deadline_while_the_disk_is_what_is_waited_for() -> None:
    machine, _ = moving(FILE_A)
    machine.receive(Frame(1, 100), A, 2.0)
    assert machine.deadline is None


# --- recipes ------------------------------------------------------------------------------------

OLD = random.Random(1).randbytes(300_000)
NEW = OLD[:150_000] + b"inserted" + OLD[150_000:]
FILE_NEW = wanted(NEW, replaces=len(OLD))


def recipe_of(data: bytes) -> bytes:
    return recipe.pack(recipe.cut(reader(data), 0, len(data)))


def test_a_replaced_file_costs_its_recipe_and_what_is_not_in_the_old_one() -> None:
    machine, effects = moving(FILE_NEW)
    assert effects == [OpenBasis(FILE_NEW), Send(AskRecipe(1, FILE_NEW.digest, 0))]
    assert machine.based(FILE_NEW, Basis(reader(OLD), len(OLD)).find, 2.0) == []
    copy, want = machine.receive(Recipe(1, FILE_NEW.digest, 0), recipe_of(NEW), 3.0)
    assert isinstance(copy, CopyRanges)
    assert isinstance(want, Send)
    assert isinstance(want.message, Want)
    fetched = sum(length for _, _, length in want.message.ranges)
    assert fetched + sum(one.length for one in copy.copies) == len(NEW)
    assert fetched < 2 * recipe.MAX_CHUNK_BYTES


def test_a_new_file_needs_no_recipe() -> None:
    _, effects = moving(wanted(NEW))
    assert not any(isinstance(effect, OpenBasis) for effect in effects)


def test_a_recipe_longer_than_the_file_is_refused() -> None:
    machine, _ = moving(FILE_NEW)
    with pytest.raises(MalformedMessage):
        machine.receive(Recipe(1, FILE_NEW.digest, 0), recipe_of(NEW + b"x"), 3.0)


def test_a_page_from_elsewhere_is_refused() -> None:
    machine, _ = moving(FILE_NEW)
    with pytest.raises(UnexpectedMessage):
        machine.receive(Recipe(1, FILE_NEW.digest, 4096), recipe_of(NEW[4096:]), 3.0)


def put_together(machine: Receiver, copies: CopyRanges) -> list[Effect]:
    return machine.copied(copies.file, sum(one.length for one in copies.copies), 4.0)


def test_a_recipe_that_lies_makes_the_file_come_whole() -> None:
    machine, _ = moving(FILE_NEW)
    machine.based(FILE_NEW, Basis(reader(OLD), len(OLD)).find, 2.0)
    lie = recipe_of(OLD + b"x" * (len(NEW) - len(OLD)))
    copy, want = machine.receive(Recipe(1, FILE_NEW.digest, 0), lie, 3.0)
    assert isinstance(copy, CopyRanges)
    assert isinstance(want, Send)
    assert isinstance(want.message, Want)
    put_together(machine, copy)
    effects: list[Effect] = []
    for _, _, length in want.message.ranges:
        store = machine.receive(Frame(1, length), b"", 5.0)[0]
        assert isinstance(store, Store)
        effects = machine.stored(store.pieces, 5.0)
    assert effects == [FinishFile(FILE_NEW)]
    again = machine.corrupt(FILE_NEW, ContentCorrupt("no"), 6.0)
    assert again == [Send(Want(1, ((FILE_NEW.digest, 0, len(NEW)),)))]


def test_a_file_that_came_whole_and_is_wrong_is_the_peers_fault() -> None:
    data = bytes(SMALL_BYTES + 1)
    machine, _ = moving(wanted(data))
    store = machine.receive(Frame(1, len(data)), data, 2.0)[0]
    assert isinstance(store, Store)
    assert machine.stored(store.pieces, 2.0) == [FinishFile(wanted(data))]
    with pytest.raises(ContentCorrupt):
        machine.corrupt(wanted(data), ContentCorrupt("no"), 3.0)


# --- any order, any splitting -------------------------------------------------------------------


class Peer:
    """A sender and a disk that answer in any order and split frames anywhere."""

    def __init__(
        self,
        machine: Receiver,
        contents: dict[int, bytes],
        old: dict[int, bytes],
        files: list[WantedFile],
        rng: random.Random,
        window_bytes: int,
    ) -> None:
        self.machine = machine
        self.by_digest = {digest_of(data): data for data in contents.values()}
        self.old = old
        self.rng = rng
        self.window_bytes = window_bytes
        self.files = deque(files)
        self.stream: deque[Range] = deque()
        self.asks: deque[AskRecipe] = deque()
        self.turns: deque[Callable[[], list[Effect]]] = deque()
        self.cuts: list[Callable[[], list[Effect]]] = []
        self.disk = {file.ticket: bytearray(file.size) for file in files}
        self.touched = dict.fromkeys((file.ticket for file in files), 0)
        self.complete: set[int] = set()
        self.unwritten = 0
        self.is_finished = False

    def run(self) -> None:
        self.perform(self.machine.start())
        self.perform(self.machine.receive(Opened(1), b"", 0.0))
        while not self.is_finished:
            steps = [
                step
                for step, ready in (
                    (self.send_frame, self.stream),
                    (self.send_recipe, self.asks),
                    (self.take_turn, self.turns),
                    (self.end_cut, self.cuts),
                )
                if ready
            ]
            assert steps, "the session is stuck"
            self.perform(self.rng.choice(steps)())

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(Want(_, ranges)):
                    self.stream.extend(ranges)
                    self.unwritten += sum(length for _, _, length in ranges)
                    assert self.unwritten <= self.window_bytes
                case Send(AskRecipe() as ask):
                    self.asks.append(ask)
                case Send(Close()) | Send(Open()):
                    pass
                case Finish():
                    self.is_finished = True
                case NeedFiles():
                    self.turns.append(self.feed)
                case _:
                    self.turns.append(partial(self.work, effect))

    def feed(self) -> list[Effect]:
        count = self.rng.randint(1, 4)
        files = [self.files.popleft() for _ in range(min(count, len(self.files)))]
        return self.machine.add(files, is_last=not self.files, now=0.0)

    def work(self, effect: Effect) -> list[Effect]:
        match effect:
            case Store(_, payload, _, pieces):
                at = 0
                for file, offset, length in pieces:
                    self.write(file, offset, bytes(payload[at : at + length]))
                    self.unwritten -= length
                    at += length
                return self.machine.stored(pieces, 0.0)
            case OpenBasis(file):
                old = self.old[file.ticket]
                find = Basis(reader(old), len(old)).find
                self.cuts.append(lambda: self.machine.based(file, find, 0.0))
                return []
            case CopyRanges(file, copies):
                for offset, start, length in copies:
                    self.write(file, offset, self.old[file.ticket][start : start + length])
                return self.machine.copied(file, sum(c.length for c in copies), 0.0)
            case FinishFile(file):
                assert not is_whole(file)
                self.complete.add(file.ticket)
                return self.machine.finished(file, 0.0)
            case _:
                raise AssertionError(effect)

    def write(self, file: WantedFile, offset: int, data: bytes) -> None:
        self.disk[file.ticket][offset : offset + len(data)] = data
        self.touched[file.ticket] += len(data)
        if is_whole(file) and self.touched[file.ticket] == file.size:
            self.complete.add(file.ticket)

    def send_frame(self) -> list[Effect]:
        data = bytearray()
        room = self.rng.choice([1, 1000, 100_000, 1 << 20])
        while self.stream and room:
            digest, offset, length = self.stream.popleft()
            part = min(length, room)
            data += self.by_digest[digest][offset : offset + part]
            room -= part
            if part < length:
                self.stream.appendleft((digest, offset + part, length - part))
        return self.machine.receive(Frame(1, len(data)), bytes(data), 0.0)

    def send_recipe(self) -> list[Effect]:
        ask = self.asks.popleft()
        data = self.by_digest[ask.digest]
        limit = self.rng.choice([1, 5, recipe.PAGE_CHUNKS])
        page = recipe.pack(recipe.cut(reader(data), ask.offset, len(data), limit=limit))
        return self.machine.receive(Recipe(1, ask.digest, ask.offset), page, 0.0)

    def take_turn(self) -> list[Effect]:
        return self.turns.popleft()()

    def end_cut(self) -> list[Effect]:
        return self.cuts.pop(self.rng.randrange(len(self.cuts)))()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [1, 50, 5000, DELTA_BYTES + 1, SMALL_BYTES, SMALL_BYTES + 1, 500_000]
            ),
            st.booleans(),
        ),
        max_size=6,
    ),
    st.sampled_from([1000, SMALL_BYTES, 1 << 20]),
    st.randoms(use_true_random=False),
)
def test_every_wanted_byte_arrives_once_and_the_window_holds(
    shapes: list[tuple[int, bool]], window_bytes: int, rng: random.Random
) -> None:
    contents = {at: rng.randbytes(size) for at, (size, _) in enumerate(shapes)}
    old = {
        at: data[len(data) // 3 :] + data[: len(data) // 3]
        for at, data in contents.items()
        if shapes[at][1]
    }
    files = [wanted(data, at, len(old.get(at, b""))) for at, data in contents.items()]
    peer = Peer(receiver(window_bytes), contents, old, files, rng, window_bytes)
    peer.run()
    assert {ticket: bytes(data) for ticket, data in peer.disk.items()} == contents
    assert peer.touched == {ticket: len(data) for ticket, data in contents.items()}
    assert peer.complete == set(contents)
    assert peer.unwritten == 0


def test_thousands_of_tiny_files_go_in_few_wants() -> None:
    files = [WantedFile(n, Digest(n.to_bytes(32, "big")), 10, 0) for n in range(1000)]
    _, effects = moving(*files)
    assert len(effects) == 1


def test_a_chunk_is_found_wherever_it_stands() -> None:
    basis = Basis(reader(OLD), len(OLD))
    first = next(recipe.cut(reader(OLD), 0, len(OLD)))
    assert basis.find(first) == 0
    assert basis.find(Chunk(5000, digest_of(b"none"))) is None
