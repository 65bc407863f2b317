from collections import deque
from collections.abc import Callable, Sequence

import pytest

from filesync.digest import digest_of
from filesync.disk.updating.update import WantedFile
from filesync.errors import MalformedMessage, Unavailable, UnexpectedMessage
from filesync.transfer.coding import recipe
from filesync.transfer.errors import Refused
from filesync.transfer.flow import Compress, Flow
from filesync.transfer.receive.fetch import SMALL_BYTES, Fetch
from filesync.transfer.receive.receiver import (
    FIRST_WINDOW_BYTES,
    MIN_SHARE_BYTES,
    UNITS,
    WINDOW_S,
    Receiver,
    State,
)
from filesync.transfer.receive.units import Batch, Coded, CutBases, StoreBatch, StorePiece
from filesync.transfer.send.sender import FRAME_BYTES, Sender, SendFrame
from filesync.transfer.timeouts import LEAST_BYTES
from filesync.transfer.wire import (
    MAX_OUTSTANDING_RANGES,
    AskRecipes,
    Close,
    Codec,
    Deltas,
    Frame,
    Open,
    Opened,
    Recipes,
    Refuse,
    Want,
)
from tests.unit.made import wanted

TOKEN = bytes(16)
TREE = digest_of(b"tree")


def opening(
    flow: Flow | None = None,
    *,
    is_only: bool = False,
    is_greeted: bool = True,
    moved: Callable[[], int] = lambda: 0,
) -> tuple[Receiver, Fetch]:
    fetch = Fetch(window_bytes=4 << 20)
    machine = Receiver(
        fetch,
        1,
        TOKEN,
        TREE,
        now=0.0,
        flow=flow or Flow(),
        is_only=is_only,
        is_greeted=is_greeted,
        opening_s=10.0,
        stall_s=60.0,
        moved=moved,
    )
    return machine, fetch


def moving(*files: WantedFile) -> tuple[Receiver, Fetch, list[object]]:
    """Return a session that has its work, and the messages by which it asked for that."""
    machine, fetch = opening()
    fetch.add(files, is_last=True)
    machine.receive(Opened(1), b"", 1.0)
    return machine, fetch, [message for message, _ in machine.advance(1.0, is_alone=True)]


A = b"a" * 100
FILE_A = wanted(A)
BIG = wanted(bytes(SMALL_BYTES * 8))


def test_it_opens_with_its_token_the_tree_that_it_expects_and_what_it_asks_of_the_flow() -> (
    None
):
    machine, _ = opening(Flow(Compress.ZSTD, 1000))
    assert machine.start() == [(Open(1, TOKEN, TREE, Compress.ZSTD, 1000), b"")]


def test_nothing_is_asked_for_before_the_session_is_open_where_another_may_be_sooner() -> None:
    machine, fetch = opening()
    fetch.add([FILE_A], is_last=True)
    assert machine.advance(0.0, is_alone=True) == []


def test_the_only_session_asks_before_the_peer_has_answered_the_opening() -> None:
    machine, fetch = opening(is_only=True)
    fetch.add([FILE_A], is_last=True)
    assert machine.advance(0.0, is_alone=True) == [(Want(1, ((FILE_A.digest, 0, 100),)), b"")]
    assert machine.deadline == 10.0
    machine.receive(Opened(1), b"", 1.0)
    assert machine.deadline == 61.0
    machine.receive(Frame(1, 100), A, 2.0)
    assert machine.is_idle


def test_a_peer_has_its_time_to_open_from_its_greeting_on() -> None:
    machine, fetch = opening(is_only=True, is_greeted=False)
    fetch.add([FILE_A], is_last=True)
    machine.advance(0.0, is_alone=True)
    before = machine.deadline
    machine.greeted(9.0)
    assert (before, machine.deadline) == (None, 19.0)
    with pytest.raises(Unavailable, match="silent while opening"):
        machine.expire(19.0)


def test_a_greeting_that_is_noted_late_takes_no_time_from_what_moves() -> None:
    machine, fetch = opening(is_only=True, is_greeted=False)
    fetch.add([FILE_A], is_last=True)
    machine.advance(0.0, is_alone=True)
    machine.receive(Opened(1), b"", 1.0)
    machine.greeted(1.0)
    assert machine.deadline == 61.0


def test_what_was_asked_for_before_the_answer_goes_to_another_if_there_is_none() -> None:
    machine, fetch = opening(is_only=True)
    fetch.add([FILE_A], is_last=True)
    machine.advance(0.0, is_alone=True)
    with pytest.raises(Refused):
        machine.receive(Refuse(1, "not-offered", "no"), b"", 1.0)
    machine.end()
    assert fetch.has_ready


def test_the_time_since_asking_counts_for_how_fast_the_link_is() -> None:
    machine, fetch = opening(is_only=True)
    fetch.add([BIG], is_last=True)
    machine.advance(0.0, is_alone=True)
    machine.receive(Opened(1), b"", 1.0)
    machine.receive(Frame(1, 1000), bytes(1000), 1.0)
    assert machine.link.bytes_per_s == 1000


def test_a_session_that_brings_holes_is_not_slow() -> None:
    machine, _, _ = moving(wanted(bytes(4 << 20)))
    unit = FIRST_WINDOW_BYTES // UNITS
    machine.receive(Frame(1, unit, Codec.HOLE), b"\0", 2.0)
    assert machine.on_wire_bytes == FIRST_WINDOW_BYTES - unit
    assert machine.seconds_left(2.0) == 1.0


def wanted_over(
    bytes_per_s: int, files: Sequence[WantedFile], come: int, *, is_alone: bool = True
) -> list[int]:
    """Return the sizes of what a session has wanted and not got after ``come`` wants came."""
    machine, fetch, sent = moving(*files)
    left: deque[int] = deque()
    now = 1.0
    for _ in range(come):
        left += map(bytes_of, sent)
        now += left[0] / bytes_per_s
        fetch.effects.clear()
        machine.receive(Frame(1, left.popleft()), b"x", now)
        match fetch.effects.popleft():
            case StoreBatch(_, unit) | StorePiece(_, unit):
                fetch.stored(unit)
            case _:
                pytest.fail("something else was to be done")
        sent = [message for message, _ in machine.advance(now, is_alone=is_alone)]
    return [*left, *map(bytes_of, sent)]


def bytes_of(want: object) -> int:
    assert isinstance(want, Want)
    return sum(length for _, _, length in want.ranges)


def test_little_is_wanted_before_anything_has_come_and_much_after_a_few_messages() -> None:
    files = [wanted_of(1 << 30)]
    assert sum(wanted_over(10**9, files, 0)) == FIRST_WINDOW_BYTES
    soon = wanted_over(10**9, files, 10)
    assert sum(soon) == 4 << 20  # all that the pull has room for
    assert max(soon) >= FRAME_BYTES


def test_beside_others_little_is_wanted_until_it_is_known_how_fast_it_comes() -> None:
    soon = wanted_over(10**9, [wanted_of(1 << 30)], 10, is_alone=False)
    assert sum(soon) < MIN_SHARE_BYTES + max(soon)


@pytest.mark.parametrize("is_large", [True, False], ids=["large", "small"])
def test_over_a_slow_link_no_more_is_wanted_than_comes_within_seconds(
    *, is_large: bool
) -> None:
    files = [wanted_of(4 << 20)] if is_large else [wanted_of(1 << 10)] * 4096
    left = wanted_over(10_000, files, 30)
    assert sum(left) <= WINDOW_S * 10_000 + max(left)
    assert max(left) <= WINDOW_S * 10_000 / UNITS


def wanted_of(size: int) -> WantedFile:
    return WantedFile(0, digest_of(b""), size, 0)


def test_a_small_file_is_wanted_whole_and_stored() -> None:
    machine, fetch, sent = moving(FILE_A)
    assert sent == [Want(1, ((FILE_A.digest, 0, 100),))]
    fetch.effects.clear()
    machine.receive(Frame(1, 100), A, 2.0)
    batch = Batch((FILE_A,), 100)
    assert list(fetch.effects) == [StoreBatch(1, batch, (Coded(Codec.RAW, A, 100),))]
    assert machine.is_idle
    fetch.stored(batch)
    assert fetch.is_done
    assert fetch.files_done == 1


def test_a_batch_is_stored_when_all_its_frames_are_here() -> None:
    machine, fetch, _ = moving(FILE_A)
    fetch.effects.clear()
    machine.receive(Frame(1, 60), A[:60], 2.0)
    assert not fetch.effects
    machine.receive(Frame(1, 40), A[60:], 2.0)
    (effect,) = fetch.effects
    assert isinstance(effect, StoreBatch)
    assert [part.raw_bytes for part in effect.parts] == [60, 40]


def test_tiny_files_are_wanted_only_as_many_at_once_as_a_sender_takes() -> None:
    files = [wanted(b"x", ticket) for ticket in range(2 * MAX_OUTSTANDING_RANGES)]
    machine, _, asked = moving(*files)
    sender = Sender()
    for _ in range(len(files)):
        for want in asked:
            assert isinstance(want, Want)
            sender.receive(want, b"")
        job = sender.next_job()
        assert isinstance(job, SendFrame)
        machine.receive(Frame(1, job.raw_bytes), b"x" * job.raw_bytes, 2.0)
        if machine.is_idle:
            return
        asked = [message for message, _ in machine.advance(2.0, is_alone=True)]
    raise AssertionError("not done though there was a frame for each file")


def test_a_large_file_is_stored_as_it_comes() -> None:
    machine, fetch, _ = moving(BIG)
    fetch.effects.clear()
    machine.receive(Frame(1, 1000), b"", 2.0)
    (effect,) = fetch.effects
    assert isinstance(effect, StorePiece)
    assert effect.piece[1:] == (0, 1000)


def test_what_has_not_come_when_a_session_ends_is_given_back_from_there() -> None:
    machine, fetch, _ = moving(BIG)
    machine.receive(Frame(1, 1000), b"", 2.0)
    assert machine.end() == Close(1)
    assert machine.state is State.CLOSED
    other = Receiver(fetch, 2, TOKEN, TREE, now=3.0, flow=Flow())
    other.receive(Opened(2), b"", 3.0)
    ((want, _), *_) = other.advance(3.0, is_alone=True)
    assert isinstance(want, Want)
    assert want.ranges[0][1] == 1000


def test_more_data_than_was_wanted_is_refused() -> None:
    machine, _, _ = moving(FILE_A)
    with pytest.raises(UnexpectedMessage, match="more than was wanted"):
        machine.receive(Frame(1, 101), bytes(101), 2.0)


@pytest.mark.parametrize(
    "message", [Frame(1, 1), Recipes(1, 1), Deltas(1, 1, 1)], ids=["frame", "recipes", "deltas"]
)
def test_an_answer_before_the_session_is_open_is_refused(
    message: Frame | Recipes | Deltas,
) -> None:
    with pytest.raises(UnexpectedMessage, match="while opening"):
        opening()[0].receive(message, b"x", 1.0)


def test_opened_twice_is_refused() -> None:
    machine, _, _ = moving(FILE_A)
    with pytest.raises(UnexpectedMessage):
        machine.receive(Opened(1), b"", 1.0)


def test_answers_that_were_not_asked_for_are_refused() -> None:
    machine, _, _ = moving(FILE_A)
    with pytest.raises(UnexpectedMessage, match="were not asked for"):
        machine.receive(Recipes(1, 1), bytes(24), 1.0)
    with pytest.raises(UnexpectedMessage, match="were not asked for"):
        machine.receive(Deltas(1, 1, 5), bytes(5), 1.0)


def test_a_replaced_large_file_is_preceded_by_its_recipe_which_is_answered_once() -> None:
    new = wanted(bytes(200_000), replaces=100_000)
    machine, fetch, (ask,) = moving(new)
    assert isinstance(ask, AskRecipes)
    assert any(isinstance(effect, CutBases) for effect in fetch.effects)
    page = recipe.pack(recipe.Recipe(0, [recipe.Part(50_000, bytes(16))] * 4))
    with pytest.raises(UnexpectedMessage, match="deltas"):
        machine.receive(Deltas(1, ask.ask, 5), bytes(5), 2.0)
    with pytest.raises(MalformedMessage):
        machine.receive(Recipes(1, ask.ask), page + b"x", 2.0)
    machine.receive(Recipes(1, ask.ask), page, 2.0)
    with pytest.raises(UnexpectedMessage, match="recipes"):
        machine.receive(Recipes(1, ask.ask), page, 2.0)


def test_a_refusal_ends_the_session_with_the_peers_reason() -> None:
    machine, _, _ = moving(FILE_A)
    with pytest.raises(Refused) as caught:
        machine.receive(Refuse(1, "source-changed", "it did"), b"", 2.0)
    assert caught.value.reason == "source-changed"


def test_no_answer_to_the_opening_is_unavailable() -> None:
    machine, _ = opening()
    machine.expire(9.9)
    with pytest.raises(Unavailable, match="while opening"):
        machine.expire(10.0)


def test_silence_while_something_is_wanted_is_unavailable() -> None:
    machine, _, _ = moving(FILE_A)
    assert machine.deadline == 61.0
    with pytest.raises(Unavailable):
        machine.expire(61.0)


def test_a_byte_at_a_time_is_no_progress() -> None:
    machine, _, _ = moving(BIG)
    for second in range(50):
        machine.receive(Frame(1, 1), b"x", float(second))
    assert machine.deadline == 61.0
    machine.receive(Frame(1, LEAST_BYTES), b"", 55.0)
    assert machine.deadline == 115.0


def test_a_message_that_is_still_coming_is_waited_for_as_long_as_it_comes() -> None:
    moved = 0
    machine, fetch = opening(moved=lambda: moved)
    fetch.add([BIG], is_last=True)
    moved += LEAST_BYTES  # others of the same connection, before the answer to the opening
    machine.expire(10.0)
    assert machine.deadline == 20.0
    machine.receive(Opened(1), b"", 11.0)
    machine.advance(11.0, is_alone=True)
    for end_s in (71.0, 131.0):
        assert machine.deadline == end_s
        moved += LEAST_BYTES
        machine.expire(end_s)
    moved += LEAST_BYTES - 1
    with pytest.raises(Unavailable):
        machine.expire(191.0)


def test_there_is_no_deadline_while_the_disk_is_what_is_waited_for() -> None:
    machine, _, _ = moving(FILE_A)
    machine.receive(Frame(1, 100), A, 2.0)
    machine.advance(2.0, is_alone=True)
    assert machine.deadline is None
