"""A Fetch and its sessions against senders and a disk that answer in any order, and may lie."""

import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filesync.digest import Digest, digest_of
from filesync.disk.updating.update import WantedFile
from filesync.transfer.coding import chunking, delta, matching, recipe
from filesync.transfer.coding.remains import (
    MAX_BYTES,
    MAX_REST_BYTES,
    Remains,
    Run,
    copies_of,
)
from filesync.transfer.flow import WINDOW_BYTES, Flow
from filesync.transfer.receive import guesses
from filesync.transfer.receive.deltaasks import SIGNED_BYTES
from filesync.transfer.receive.fetch import (
    DELTA_BYTES,
    MAX_PENDING_FILES,
    SMALL_BYTES,
    Fetch,
)
from filesync.transfer.receive.receiver import Receiver
from filesync.transfer.receive.units import (
    Based,
    Batch,
    CopyRanges,
    CutBases,
    DeltaAsk,
    Effect,
    FinishFile,
    Gap,
    NeedFiles,
    PassOver,
    Piece,
    RebuildGaps,
    RecipeAsk,
    SignGaps,
    StoreBatch,
    StorePiece,
    Work,
)
from filesync.transfer.receive.wants import BATCH_BYTES, PIECE_BYTES
from filesync.transfer.receive.works import MAX_DELTA_FILES, MAX_DELTA_FILES_BYTES
from filesync.transfer.wire import (
    MAX_DELTAS_BYTES,
    MAX_SIGNATURES,
    SIGNATURE_BYTES,
    AskDeltas,
    AskRecipes,
    Deltas,
    Frame,
    Level,
    Opened,
    Range,
    Recipes,
    Want,
)
from tests.unit.made import reader, wanted

Step = Callable[[], None]


def flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


class Peer:
    """A session and the sender that it talks to."""

    def __init__(self, machine: Receiver, *, lies: bool) -> None:
        self.machine = machine
        self.lies = lies
        self.wants: deque[deque[Range]] = deque()
        self.asks: deque[tuple[AskRecipes | AskDeltas, bytes]] = deque()


@pytest.fixture(autouse=True, scope="module")
def one_guess() -> Iterator[None]:
    """Have the others wait for the first one."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(guesses, "MOST_TRIED", 1)
        yield


class World:
    """Peers and a disk. ``run`` returns when all is in place; it fails when nobody can go on."""

    def __init__(
        self,
        contents: list[bytes],
        old: dict[int, bytes],
        rng: random.Random,
        *,
        window_bytes: int,
        liars: int = 0,
        mortal: int = 0,
        mutable: int = 0,
        remains: Mapping[Digest, Remains] = MappingProxyType({}),
    ) -> None:
        """``mutable``: so many contents change, one after another, and are not to be had any more."""
        self.rng = rng
        self.old = old
        self.contents = contents
        self.by_digest = {digest_of(data): data for data in contents}
        self.files = deque(
            wanted(data, at, len(old.get(at, b"")))._replace(
                guess=rng.choice([None, b"d"]) if at in old else None
            )
            for at, data in enumerate(contents)
        )
        self.fetch = Fetch(window_bytes=window_bytes, remains=remains)
        self.window_bytes = window_bytes
        self.disk = [bytearray(len(data)) for data in contents]
        self.complete: set[int] = set()
        self.recipes: dict[int, recipe.Recipe | None] = {}
        self.written = 0
        self.mortal = mortal
        self.mutable = mutable
        self.changed: set[Digest] = set()
        self.passed_over: set[int] = set()
        self.turns: deque[Step] = deque()
        self.beside: list[Step] = []
        self.peers: dict[int, Peer] = {}
        for number in range(1, 2 + liars + mortal):
            self.join(number, lies=number <= liars)

    def join(self, number: int, *, lies: bool) -> None:
        machine = Receiver(self.fetch, number, bytes(16), digest_of(b""), now=0, flow=Flow())
        machine.start()
        machine.receive(Opened(number), b"", 0.0)
        self.peers[number] = Peer(machine, lies=lies)

    def run(self) -> None:
        while True:
            self.advance()
            if self.fetch.is_done:
                break
            steps: list[Step] = [self.take_turn] if self.turns else []
            steps += [partial(self.end_beside, one) for one in range(len(self.beside))]
            for peer in self.peers.values():
                if peer.wants:
                    steps.append(partial(self.send_frame, peer))
                if peer.asks:
                    steps.append(partial(self.answer, peer))
            assert steps, "the pull is stuck"
            self.rng.choice(steps)()
            if self.mortal and self.rng.random() < 0.02:
                self.mortal -= 1
                self.drop(max(self.peers))
            if self.mutable and self.by_digest and self.rng.random() < 0.05:
                self.mutable -= 1
                self.changed.add(self.rng.choice(list(self.by_digest)))
        assert not self.fetch.has_ready
        assert all(peer.machine.is_idle for peer in self.peers.values())

    def advance(self) -> None:
        effects = self.fetch.effects
        while effects:
            self.begin(effects.popleft())
        for peer in self.peers.values():
            is_alone = len(self.peers) == 1
            for message, payload in peer.machine.advance(0.0, is_alone=is_alone):
                match message:
                    case Want(_, ranges):
                        peer.wants.append(deque(ranges))
                    case AskRecipes() | AskDeltas():
                        peer.asks.append((message, bytes(payload)))
                    case _:
                        raise AssertionError(message)
        on_wire = sum(peer.machine.on_wire_bytes for peer in self.peers.values())
        # What is larger than the window goes alone.
        assert on_wire <= max(self.window_bytes, BATCH_BYTES + SMALL_BYTES)

    # --- the senders --------------------------------------------------------------------------

    def send_frame(self, peer: Peer) -> None:
        data = bytearray()
        room = self.rng.choice([1000, 100_000, 1 << 20])
        want = peer.wants[0]
        if want[0][0] in self.changed:
            self.refuse(peer, want[0][0])
            return
        while want and want[0][0] not in self.changed and room:
            digest, offset, length = want.popleft()
            part = min(length, room)
            data += self.by_digest[digest][offset : offset + part]
            room -= part
            if part < length:
                want.appendleft((digest, offset + part, length - part))
        if not want:
            peer.wants.popleft()
        payload = self.said(peer, bytes(data))
        peer.machine.receive(Frame(peer.machine.session, len(payload)), payload, 0.0)

    def answer(self, peer: Peer) -> None:
        ask, signatures = peer.asks.popleft()
        session = peer.machine.session
        if changed := [item[0] for item in ask.items if item[0] in self.changed]:
            self.refuse(peer, changed[0])
            return
        if isinstance(ask, AskRecipes):
            pages = []
            for digest, offset, end, level in ask.items[: self.rng.choice([1, 2, 9])]:
                parts = chunking.cut(
                    reader(self.said(peer, self.by_digest[digest])), offset, end
                )
                if level is Level.SEGMENTS:
                    parts = parts.segments()
                pages.append(recipe.pack(parts.sliced(0, self.rng.choice([1, 5, 1000]))))
            peer.machine.receive(Recipes(session, ask.ask), b"".join(pages), 0.0)
            return
        made = []
        for digest, offset, length, count in ask.items:
            mine = count * SIGNATURE_BYTES
            data = self.said(peer, self.by_digest[digest][offset : offset + length])
            made.append(delta.encode(data, signatures[:mine], ask.key))
            signatures = signatures[mine:]
        payload = delta.join(made)
        peer.machine.receive(Deltas(session, ask.ask, len(payload)), payload, 0.0)

    def said(self, peer: Peer, data: bytes) -> bytes:
        return flipped(data) if peer.lies and self.rng.random() < 0.5 else data

    def refuse(self, peer: Peer, changed: Digest) -> None:
        """End the session, as who reads a file does that has changed, and begin another."""
        number = peer.machine.session
        self.drop(number)
        # A small one that another has been asked for is that one's to refuse.
        assert self.fetch.drop(changed) or self.peers
        self.join(number + 100, lies=peer.lies)

    def drop(self, session: int) -> None:
        if peer := self.peers.pop(session, None):
            peer.machine.end()

    # --- the disk -----------------------------------------------------------------------------

    def begin(self, effect: Effect) -> None:
        if isinstance(effect, CutBases | SignGaps):
            self.beside.append(partial(self.work_beside, effect))
        else:
            self.turns.append(partial(self.work, effect))

    def take_turn(self) -> None:
        self.turns.popleft()()

    def end_beside(self, number: int) -> None:
        self.beside.pop(number)()

    def work_beside(self, effect: CutBases | SignGaps) -> None:
        if isinstance(effect, CutBases):
            self.fetch.based([self.base(work) for work in effect.works])
            return
        key = self.rng.randrange(1 << 63)
        signed = [delta.cut(self.old_bytes(gap), key) for gap in effect.gaps]
        self.fetch.signed(effect.gaps, key, signed)

    def base(self, work: Work) -> Based:
        old = self.old[work.file.ticket]
        if old and (told := work.remains) is not None and told.old == digest_of(old):
            copies = copies_of(told.runs, work.file.size, len(old))
            return Based(work, matching.Index([(recipe.Recipe(0), len(old))]), copies)
        return Based(work, self.index_of(work))

    def index_of(self, work: Work) -> matching.Index | None:
        old = self.old[work.file.ticket]
        return (
            matching.Index([(chunking.cut(reader(old), 0, len(old)), len(old))])
            if old
            else None
        )

    def old_bytes(self, gap: Gap) -> bytes:
        old = self.old[gap.file.ticket]
        return b"".join([old[start:end] for _, start, end in gap.old])

    def work(self, effect: Effect) -> None:
        match effect:
            case NeedFiles():
                count = min(self.rng.randint(1, 4), len(self.files))
                files = [self.files.popleft() for _ in range(count)]
                self.fetch.add(files, is_last=not self.files)
            case StoreBatch(session, batch, parts):
                self.store_batch(
                    session, batch, b"".join(bytes(part.payload) for part in parts)
                )
            case StorePiece(_, piece, data):
                if not piece.work.is_passed_over:
                    self.write(piece.work.file.ticket, piece.offset, bytes(data.payload))
                self.fetch.stored(piece)
            case CopyRanges():
                self.copy(effect)
            case RebuildGaps(_, gaps, data):
                self.rebuild(gaps, bytes(data.payload))
            case PassOver(files):
                assert self.passed_over.isdisjoint(file.ticket for file in files)
                self.passed_over.update(file.ticket for file in files)
                self.fetch.passed_over(len(files))
            case FinishFile(work):
                self.finish(work)
            case _:
                raise AssertionError(effect)

    def copy(self, effect: CopyRanges) -> None:
        ticket = effect.work.file.ticket
        for offset, basis, start, length in effect.copies:
            assert basis == 0
            old = self.old[ticket][start : start + length]
            if not effect.work.is_passed_over:
                self.write(ticket, offset, old.ljust(length, b"\0"))
        self.fetch.copied(effect.work, effect.size)

    def finish(self, work: Work) -> None:
        if self.is_right(work.file.ticket):
            self.recipes[work.file.ticket] = work.recipe()
            self.fetch.finished(work)
        elif (guilty := self.fetch.corrupt(work)) is not None:
            self.drop(guilty)

    def store_batch(self, session: int, batch: Batch, data: bytes) -> None:
        at = 0
        for file in batch.files:
            self.write(file.ticket, 0, data[at : at + file.size])
            at += file.size
        if all(self.is_right(file.ticket) for file in batch.files):
            self.fetch.stored(batch)
        else:
            self.fetch.give_back([batch], [])
            self.drop(session)

    def rebuild(self, gaps: tuple[Gap, ...], data: bytes) -> None:
        wrong = []
        for gap, one in zip(gaps, delta.split(data, len(gaps)), strict=True):
            assert gap.pieces is not None
            made = delta.apply(one, gap.pieces, gap.size)
            is_unproved = gap.work is not None and not gap.chunks  # the whole file is proved
            right = self.contents[gap.file.ticket][gap.offset : gap.offset + gap.size]
            if gap.is_passed_over:
                continue
            if is_unproved or made == right:
                self.write(gap.file.ticket, gap.offset, made)
                if gap.work is None:
                    self.complete.add(gap.file.ticket)
            else:
                wrong.append(gap)
        self.fetch.rebuilt(gaps, wrong)

    def write(self, ticket: int, offset: int, data: bytes) -> None:
        assert ticket not in self.passed_over
        self.disk[ticket][offset : offset + len(data)] = data
        self.written += len(data)

    def is_right(self, ticket: int) -> bool:
        if self.disk[ticket] == self.contents[ticket]:
            self.complete.add(ticket)
            return True
        return False

    def is_right_everywhere(self) -> bool:
        return self.disk == self.contents and self.complete == set(range(len(self.contents)))


sizes = st.sampled_from([1, 50, 5000, DELTA_BYTES + 1, SMALL_BYTES, SMALL_BYTES + 1, 1_500_000])
shapes = st.lists(st.tuples(sizes, st.booleans()), max_size=6)
windows = st.sampled_from([1000, SMALL_BYTES, 4 << 20])
# Drawn choice by choice, the contents alone take a minute, and what takes many turns is given up.
seeded = st.randoms(use_true_random=True)


def world(
    shapes: list[tuple[int, bool]],
    rng: random.Random,
    *,
    window_bytes: int,
    liars: int = 0,
    mortal: int = 0,
    mutable: int = 0,
) -> World:
    """A file of each size, and where it is said so an old one that shares something with it."""
    contents = [rng.randbytes(size) for size, _ in shapes]
    old: dict[int, bytes] = {}
    for at, data in enumerate(contents):
        if shapes[at][1]:
            third = len(data) // 3
            edited = bytearray(data[third:] + data[:third])
            edited[len(edited) // 2] ^= 1
            old[at] = bytes(edited)
    return World(
        contents,
        old,
        rng,
        window_bytes=window_bytes,
        liars=liars,
        mortal=mortal,
        mutable=mutable,
    )


@given(shapes, windows, st.integers(1, 3), st.integers(0, 2), seeded)
def test_what_changes_while_it_is_fetched_is_passed_over_and_costs_no_other(
    shapes: list[tuple[int, bool]],
    window_bytes: int,
    mutable: int,
    mortal: int,
    rng: random.Random,
) -> None:
    one = world(shapes, rng, window_bytes=window_bytes, mutable=mutable, mortal=mortal)
    one.run()
    assert not one.complete & one.passed_over
    assert one.complete | one.passed_over == set(range(len(one.contents)))
    assert all(digest_of(one.contents[at]) in one.changed for at in one.passed_over)
    assert all(one.is_right(at) for at in one.complete)
    assert one.fetch.files_done == len(one.complete)


def remains_of(old: bytes, new: bytes) -> Remains | None:
    """Return what whoever has cut both says of ``new``."""
    before = chunking.Cutter(old=chunking.MarkedRecipe.empty(7))
    before.cut(old)
    before.end()
    cutter = chunking.Cutter(old=before.marked)
    cutter.cut(new)
    cutter.end()
    if not cutter.remains:
        return None
    return Remains(digest_of(new), digest_of(old), tuple(cutter.remains))


def told_world(
    shapes: list[tuple[int, bool]], rng: random.Random, *, window_bytes: int
) -> tuple[World, dict[int, Remains]]:
    """As ``world``, but of the files that have old ones it is said what remains of those."""
    plain = world(shapes, rng, window_bytes=window_bytes)
    told = {
        at: remains
        for at, old in plain.old.items()
        if (remains := remains_of(old, plain.contents[at])) is not None
    }
    by_digest = {one.digest: one for one in told.values()}
    told_of = World(
        plain.contents, plain.old, rng, window_bytes=window_bytes, remains=by_digest
    )
    return told_of, told


@given(shapes, windows, seeded)
def test_with_what_remains_of_old_files_every_wanted_byte_is_written_once(
    shapes: list[tuple[int, bool]], window_bytes: int, rng: random.Random
) -> None:
    one, _ = told_world(shapes, rng, window_bytes=window_bytes)
    one.run()
    assert one.is_right_everywhere()
    assert one.written == sum(map(len, one.contents))


@given(shapes, windows, seeded)
def test_what_was_said_of_other_old_files_does_no_harm(
    shapes: list[tuple[int, bool]], window_bytes: int, rng: random.Random
) -> None:
    one, told = told_world(shapes, rng, window_bytes=window_bytes)
    for at in told:
        if rng.random() < 0.5:
            one.old[at] = one.old[at][1:]
    one.run()
    assert one.is_right_everywhere()


@given(shapes, windows, seeded)
def test_wrong_remains_cost_bytes_and_no_wrong_byte(
    shapes: list[tuple[int, bool]], window_bytes: int, rng: random.Random
) -> None:
    one, told = told_world(shapes, rng, window_bytes=window_bytes)
    wrong = {
        old.digest: Remains(
            old.digest,
            old.old,
            tuple(Run(at, start // 2, length) for at, start, length in old.runs),
        )
        for old in told.values()
    }
    one = World(one.contents, one.old, rng, window_bytes=window_bytes, remains=wrong)
    one.run()
    assert one.is_right_everywhere()


def test_of_a_file_of_which_it_was_said_what_remains_no_recipe_is_asked_for() -> None:
    rng = random.Random(4)
    one, told = told_world([(1_500_000, True)], rng, window_bytes=4 << 20)
    assert told
    asked: list[object] = []
    answer = one.answer

    def noting(peer: Peer) -> None:
        asked.append(type(peer.asks[0][0]))
        answer(peer)

    one.answer = noting  # type: ignore[method-assign]
    one.run()
    assert set(asked) == {AskDeltas}
    assert one.recipes == {0: None}


@pytest.mark.parametrize(
    ("size", "length", "is_believed"),
    [
        (recipe.MAX_RECIPE_BYTES + 1, 1, True),
        (MAX_BYTES, MAX_BYTES - MAX_REST_BYTES, True),
        (MAX_BYTES, MAX_BYTES - MAX_REST_BYTES - 1, False),
        (MAX_BYTES + 1, MAX_BYTES, False),
    ],
)
def test_what_remains_of_a_file_is_not_believed_where_there_may_be_too_much_to_list(
    size: int, length: int, is_believed: bool
) -> None:
    # It could have any size that somebody says, with nothing but holes: nothing may take as much.
    digest, old = digest_of(b"new"), digest_of(b"old")
    said = Remains(digest, old, (Run(0, 0, length),))
    fetch = Fetch(remains={digest: said})
    fetch.effects.clear()
    fetch.add([WantedFile(0, digest, size, 1 << 20)], is_last=True)
    (cut,) = fetch.effects
    assert isinstance(cut, CutBases)
    assert cut.works[0].remains is (said if is_believed else None)
    assert isinstance(fetch.take_ask(), RecipeAsk) != is_believed


@given(shapes, windows, seeded)
def test_every_wanted_byte_is_written_once(
    shapes: list[tuple[int, bool]], window_bytes: int, rng: random.Random
) -> None:
    one = world(shapes, rng, window_bytes=window_bytes)
    one.run()
    assert one.is_right_everywhere()
    assert one.written == sum(map(len, one.contents))


@given(shapes, windows, st.integers(0, 1), seeded)
def test_the_recipe_of_what_was_put_together_is_known_without_cutting_it(
    shapes: list[tuple[int, bool]], window_bytes: int, mortal: int, rng: random.Random
) -> None:
    one = world(shapes, rng, window_bytes=window_bytes, mortal=mortal)
    one.run()
    for ticket, made in one.recipes.items():
        content = one.contents[ticket]
        if ticket not in one.old:
            assert made is None
        else:
            assert made is not None
            assert list(made) == list(chunking.cut(reader(content), 0, len(content)))


@given(shapes, windows, st.integers(1, 3), seeded)
def test_what_a_session_that_dies_has_not_brought_others_bring(
    shapes: list[tuple[int, bool]], window_bytes: int, mortal: int, rng: random.Random
) -> None:
    one = world(shapes, rng, window_bytes=window_bytes, mortal=mortal)
    one.run()
    assert one.is_right_everywhere()


@given(shapes, windows, st.integers(1, 2), seeded)
def test_sessions_that_lie_are_found_out_and_an_honest_one_is_enough(
    shapes: list[tuple[int, bool]], window_bytes: int, liars: int, rng: random.Random
) -> None:
    one = world(shapes, rng, window_bytes=window_bytes, liars=liars, mortal=1)
    honest = liars + 1
    one.run()
    assert one.is_right_everywhere()
    assert honest in one.peers


# --- one thing at a time ------------------------------------------------------------------------


def fed(*files: WantedFile, rate: float = 0.0) -> Fetch:
    fetch = Fetch(rate=lambda: rate)
    fetch.add(files, is_last=True)
    return fetch


def test_nothing_to_fetch_is_done_at_once() -> None:
    assert fed().is_done


def test_thousands_of_tiny_files_go_in_few_units() -> None:
    files = [WantedFile(n, Digest(n.to_bytes(32, "big")), 10, 0) for n in range(1000)]
    fetch = fed(*files)
    assert isinstance(fetch.take_unit(1), Batch)
    assert fetch.take_unit(1) is None


def test_a_large_file_comes_after_the_full_batches_that_are_listed_before_it() -> None:
    small = [WantedFile(n, digest_of(b"%d" % n), BATCH_BYTES // 8, 0) for n in range(9)]
    large = WantedFile(9, digest_of(b"large"), PIECE_BYTES, 0)
    fetch = fed(*small, large)
    first, second, third = (fetch.take_unit(1) for _ in range(3))
    assert first == Batch(tuple(small[:8]), BATCH_BYTES)
    assert isinstance(second, Piece)
    assert third == Batch((small[8],), small[8].size)


def test_no_more_files_are_asked_for_while_very_many_are_not_in_place() -> None:
    fetch = Fetch()
    fetch.effects.clear()
    files = [WantedFile(n, digest_of(b"x"), 1, 0) for n in range(MAX_PENDING_FILES)]
    fetch.add(files, is_last=False)
    taken = []
    while unit := fetch.take_unit(1):
        taken.append(unit)
    assert not fetch.effects
    fetch.stored(taken[0])
    assert list(fetch.effects) == [NeedFiles()]


def test_more_is_handed_out_only_after_the_write() -> None:
    fetch = Fetch(window_bytes=PIECE_BYTES)
    fetch.add([WantedFile(0, digest_of(b"x"), 2 * PIECE_BYTES, 0)], is_last=True)
    piece = fetch.take_unit(1)
    assert isinstance(piece, Piece)
    assert fetch.take_unit(1) is None
    fetch.stored(piece)
    assert fetch.take_unit(1) == Piece(piece.work, PIECE_BYTES, PIECE_BYTES)


def test_a_window_that_is_made_smaller_is_kept_to_from_then_on() -> None:
    fetch = Fetch(window_bytes=4 * PIECE_BYTES)
    fetch.add([WantedFile(0, digest_of(b"x"), 9 * PIECE_BYTES, 0)], is_last=True)
    taken = [fetch.take_unit(1) for _ in range(4)]
    assert fetch.take_unit(1) is None
    fetch.limit(PIECE_BYTES, MAX_DELTA_FILES)
    for piece in taken:
        assert isinstance(piece, Piece)
        assert fetch.take_unit(1) is None
        fetch.stored(piece)
    assert fetch.take_unit(1) is not None
    assert fetch.take_unit(1) is None


def test_a_new_file_needs_no_recipe_and_no_delta() -> None:
    fetch = fed(wanted(bytes(10)), wanted(bytes(SMALL_BYTES + 1)))
    assert fetch.take_ask() is None
    assert not any(isinstance(one, CutBases | SignGaps) for one in fetch.effects)


def test_segments_are_asked_for_first_where_there_are_many_chunks() -> None:
    fetch = fed(wanted(bytes(2 << 20), replaces=99), wanted(bytes(1 << 20), 1, replaces=99))
    ask = fetch.take_ask()
    assert isinstance(ask, RecipeAsk)
    assert [one.level for one in ask.stretches] == [Level.SEGMENTS, Level.CHUNKS]


def test_an_edited_small_file_is_signed_and_asked_for_as_a_delta() -> None:
    old = random.Random(1).randbytes(50_000)
    fetch = fed(wanted(bytes(50_000), replaces=50_000))
    (sign,) = [one for one in fetch.effects if isinstance(one, SignGaps)]
    fetch.signed(sign.gaps, 7, [delta.cut(old, 7)])
    ask = fetch.take_ask()
    assert isinstance(ask, DeltaAsk)
    assert (ask.key, ask.gaps) == (7, sign.gaps)


def test_few_gaps_are_signed_ahead_however_many_there_are() -> None:
    old = delta.cut(random.Random(1).randbytes(100_000), 7)
    count = 1000
    fetch = fed(*[wanted(bytes(100_000), at, replaces=100_000) for at in range(count)])
    signing: list[Gap] = []
    signed = asked = 0
    while not fetch.is_done:
        while fetch.effects:
            effect = fetch.effects.popleft()
            if isinstance(effect, SignGaps):
                signed += sum(gap.size for gap in effect.gaps)
                signing += effect.gaps
        assert signed - asked <= SIGNED_BYTES + MAX_DELTAS_BYTES
        fetch.signed(signing, 7, [old] * len(signing))
        signing.clear()
        ask = fetch.take_ask()
        assert isinstance(ask, DeltaAsk)
        asked += ask.size
        fetch.rebuilt(ask.gaps, [])
    assert fetch.files_done == count
    assert signed == asked == count * 100_000


def test_no_more_of_a_recipe_is_asked_for_while_much_of_it_waits() -> None:
    rng = random.Random(2)
    size = 1 << 30
    fetch = fed(WantedFile(0, digest_of(b"new"), size, replaces=size))
    (cut,) = [one for one in fetch.effects if isinstance(one, CutBases)]
    fetch.based([Based(cut.works[0], matching.Index([(recipe.Recipe(0), size)]))])
    pages = 0
    while isinstance(ask := fetch.take_ask(), RecipeAsk):
        pages += 1
        stretch, *_ = ask.stretches
        largest = 1 << (24 if stretch.level is Level.SEGMENTS else 16)
        room = min(stretch.end - stretch.offset, largest << 9)
        parts = [recipe.Part(largest, rng.randbytes(16)) for _ in range(room // largest)]
        fetch.take_recipes(ask, recipe.pack(recipe.Recipe(0, parts)))
    assert ask is None
    assert pages < 8
    assert fetch.has_ready


def test_a_small_file_whose_old_one_is_gone_is_wanted_whole() -> None:
    fetch = fed(wanted(bytes(50_000), replaces=50_000))
    (sign,) = [one for one in fetch.effects if isinstance(one, SignGaps)]
    fetch.signed(sign.gaps, 7, [None])
    assert fetch.take_ask() is None
    assert isinstance(fetch.take_unit(1), Batch)


def test_a_small_file_whose_old_one_has_been_emptied_is_wanted_whole() -> None:
    # No sender takes an ask that signs nothing.
    fetch = fed(wanted(bytes(50_000), replaces=50_000))
    (sign,) = [one for one in fetch.effects if isinstance(one, SignGaps)]
    fetch.signed(sign.gaps, 7, [delta.cut(b"", 7)])
    assert fetch.take_ask() is None
    assert isinstance(fetch.take_unit(1), Batch)


def test_no_ask_has_more_signatures_or_bytes_than_a_sender_takes() -> None:
    files = [wanted(bytes(100_000), at, replaces=100_000) for at in range(30)]
    fetch = fed(*files)
    gaps = [gap for one in fetch.effects if isinstance(one, SignGaps) for gap in one.gaps]
    count = MAX_SIGNATURES // 4
    many = delta.Pieces(b"", list(range(1, count + 1)), bytes(count * SIGNATURE_BYTES))
    few = delta.cut(random.Random(1).randbytes(100_000), 7)
    fetch.signed(gaps, 7, [many if at < 10 else few for at in range(len(gaps))])
    asked = 0
    while isinstance(ask := fetch.take_ask(), DeltaAsk):
        asked += len(ask.gaps)
        assert ask.size <= MAX_DELTAS_BYTES
        signatures = [gap.pieces.count for gap in ask.gaps if gap.pieces is not None]
        assert sum(signatures) <= MAX_SIGNATURES
    assert asked == len(files)


def test_files_are_asked_for_once_until_some_come() -> None:
    fetch = Fetch()
    fetch.effects.clear()
    fetch.add([wanted(bytes(SMALL_BYTES + 1))], is_last=False)
    assert list(fetch.effects) == [NeedFiles()]
    piece = fetch.take_unit(1)
    assert piece is not None
    assert list(fetch.effects) == [NeedFiles()]


def cut_at_once(fetch: Fetch) -> list[Work]:
    """Return the large files whose old ones are to be cut now."""
    works = [work for one in fetch.effects if isinstance(one, CutBases) for work in one.works]
    fetch.effects.clear()
    return works


def replaced_files(count: int, size: int) -> list[WantedFile]:
    return [WantedFile(at, digest_of(b"x"), size, replaces=size) for at in range(count)]


def test_no_more_old_files_are_cut_at_once_than_memory_has_room_for() -> None:
    fetch = fed(*replaced_files(3, MAX_DELTA_FILES_BYTES // 2))
    first, second = cut_at_once(fetch)
    fetch.finished(first)
    (third,) = cut_at_once(fetch)
    assert {first.file.ticket, second.file.ticket, third.file.ticket} == {0, 1, 2}


def test_an_old_file_of_any_size_is_cut() -> None:
    fetch = fed(*replaced_files(2, 2 * MAX_DELTA_FILES_BYTES))
    assert len(cut_at_once(fetch)) == 1


def test_a_large_file_that_turned_out_wrong_makes_room_for_one_that_waits() -> None:
    fetch = fed(*replaced_files(MAX_DELTA_FILES + 1, SMALL_BYTES + 1))
    works = cut_at_once(fetch)
    assert len(works) == MAX_DELTA_FILES
    fetch.corrupt(works[0])
    assert len(cut_at_once(fetch)) == 1


def test_fewer_large_files_are_made_of_old_ones_at_once_where_that_is_said() -> None:
    fetch = Fetch()
    fetch.effects.clear()
    fetch.limit(WINDOW_BYTES, 3)
    fetch.add(replaced_files(5, SMALL_BYTES + 1), is_last=True)
    works = cut_at_once(fetch)
    assert len(works) == 3
    fetch.limit(WINDOW_BYTES, 0)
    fetch.finished(works[0])
    assert cut_at_once(fetch) == []
    for work in works[1:]:
        fetch.finished(work)
    assert len(cut_at_once(fetch)) == 1  # it would never come


def test_a_large_file_that_replaces_none_makes_no_room_for_one_that_does() -> None:
    fetch = fed(
        *replaced_files(MAX_DELTA_FILES + 1, SMALL_BYTES + 1),
        wanted(bytes(SMALL_BYTES + 1), MAX_DELTA_FILES + 1),
    )
    cut_at_once(fetch)
    piece = fetch.take_unit(1)
    assert isinstance(piece, Piece)
    fetch.stored(piece)
    fetch.finished(piece.work)
    assert cut_at_once(fetch) == []


def test_the_recipe_of_a_file_of_which_whole_segments_were_there_is_known() -> None:
    rng = random.Random(3)
    old = rng.randbytes(3 << 20)
    content = old[: 2 << 20] + rng.randbytes(1000) + old[2 << 20 :]
    one = World([content], {0: old}, rng, window_bytes=4 << 20)
    one.run()
    made = one.recipes[0]
    assert made is not None
    assert list(made) == list(chunking.cut(reader(content), 0, len(content)))


def test_of_a_content_that_is_too_large_no_recipe_is_kept() -> None:
    size = recipe.MAX_RECIPE_BYTES + 1
    work = Work(WantedFile(0, digest_of(b"x"), size, replaces=size), is_delta=True)
    whole = recipe.Recipe(0, [recipe.Part(size, bytes(16))])
    work.note(whole)
    assert work.recipe() is None
    work.index = matching.Index([(whole, size)])
    work.note_taken([matching.Copy(0, 0, 0, size)])
    assert work.recipe() is None


def test_a_file_that_several_gave_and_that_is_wrong_comes_again_from_one_that_lives() -> None:
    fetch = fed(wanted(bytes(SMALL_BYTES + 1)))
    piece = fetch.take_unit(1)
    assert isinstance(piece, Piece)
    piece.work.givers.update({1, 2, 3})
    fetch.forget(1)
    assert fetch.corrupt(piece.work) is None
    assert fetch.take_unit(3) is None
    again = fetch.take_unit(2)
    assert isinstance(again, Piece)
    again.work.givers.add(2)
    assert fetch.corrupt(again.work) == 2


def test_a_file_whose_givers_are_all_gone_may_come_from_anyone() -> None:
    fetch = fed(wanted(bytes(SMALL_BYTES + 1)))
    piece = fetch.take_unit(1)
    assert isinstance(piece, Piece)
    piece.work.givers.update({1, 2})
    fetch.forget(1)
    fetch.forget(2)
    fetch.corrupt(piece.work)
    assert fetch.take_unit(5) is not None


def test_what_proves_unreadable_after_its_only_giver_is_gone_may_come_from_anyone() -> None:
    fetch = fed(wanted(bytes(SMALL_BYTES + 1)))
    piece = fetch.take_unit(1)
    assert isinstance(piece, Piece)
    piece.work.givers.update({1, 2})
    fetch.stored(piece)
    fetch.corrupt(piece.work)
    again = fetch.take_unit(1)
    assert isinstance(again, Piece)
    assert again.work.only == 1
    # All of it has come and is still being made plain; the session ends before that fails.
    fetch.forget(1)
    fetch.give_back([again], [])
    assert fetch.take_unit(2) == again


def test_small_files_of_a_content_that_is_gone_are_passed_over() -> None:
    gone, other = wanted(b"gone"), wanted(b"other", 1)
    fetch = fed(gone, other, gone._replace(ticket=2))
    fetch.effects.clear()
    assert fetch.drop(gone.digest)
    assert list(fetch.effects) == [PassOver((gone, gone._replace(ticket=2)))]
    assert fetch.take_unit(1) == Batch((other,), other.size)
    fetch.passed_over(2)
    was_done = fetch.is_done
    fetch.stored(Batch((other,), other.size))
    assert (was_done, fetch.is_done, fetch.files_done) == (False, True, 1)


def test_of_a_large_file_that_is_passed_over_nothing_more_is_wanted() -> None:
    large = WantedFile(1, digest_of(b"large"), 3 * PIECE_BYTES, 0)
    fetch = fed(large)
    fetch.effects.clear()
    come, unit = fetch.take_unit(1), fetch.take_unit(1)
    assert isinstance(come, Piece)
    assert unit is not None
    assert fetch.drop(large.digest)
    assert list(fetch.effects) == [PassOver((large,))]
    fetch.give_back([unit], [])
    assert fetch.take_unit(1) is None
    fetch.stored(come)
    fetch.passed_over(1)
    assert fetch.is_done
    assert fetch.files_done == 0


def test_a_file_whose_old_ones_are_being_read_is_passed_over_when_they_have_been() -> None:
    file = WantedFile(2, digest_of(b"delta"), SMALL_BYTES + 1, SMALL_BYTES)
    fetch = fed(file)
    [cut] = [one for one in fetch.effects if isinstance(one, CutBases)]
    fetch.effects.clear()
    assert fetch.drop(file.digest)
    assert not fetch.effects
    fetch.based([Based(cut.works[0], None)])
    assert list(fetch.effects) == [PassOver((file,))]
    assert fetch.take_ask() is None


def test_what_waited_for_signed_gaps_of_a_content_that_is_gone_is_signed() -> None:
    old = delta.cut(random.Random(1).randbytes(100_000), 7)
    count = SIGNED_BYTES // 100_000 + 20
    gone = [wanted(bytes(100_000), at, replaces=100_000) for at in range(count)]
    other = wanted(b"x" * 100_000, count, replaces=100_000)
    fetch = fed(*gone, other)
    signing = [gap for one in fetch.effects if isinstance(one, SignGaps) for gap in one.gaps]
    fetch.effects.clear()
    fetch.signed(signing, 7, [old] * len(signing))
    assert not fetch.effects
    assert fetch.drop(gone[0].digest)
    [sign] = [one for one in fetch.effects if isinstance(one, SignGaps)]
    assert [gap.file for gap in sign.gaps] == [other]


def test_what_has_all_come_or_is_still_to_come_with_others_is_not_passed_over() -> None:
    small, large = wanted(b"small"), WantedFile(1, digest_of(b"large"), PIECE_BYTES, 0)
    fetch = fed(small, large)
    units = [fetch.take_unit(1), fetch.take_unit(1)]
    [piece] = [unit for unit in units if isinstance(unit, Piece)]
    fetch.stored(piece)
    fetch.effects.clear()
    for file in (small, large):
        assert not fetch.drop(file.digest)
    assert not fetch.effects
