from hypothesis import given
from hypothesis import strategies as st

from filesync.transfer.coding.matching import Copy
from filesync.transfer.receive.copying import TURN_BYTES, Copying
from filesync.transfer.receive.units import CopyRanges, Work
from tests.unit.made import wanted

MIB = 1 << 20
WORKS = [Work(wanted(b"new", ticket, 3), is_delta=True) for ticket in range(3)]


def copies(work: Work, offset: int, length: int = MIB) -> CopyRanges:
    return CopyRanges(work, (Copy(offset, 0, 0, length),))


def test_what_is_known_late_is_copied_first_if_it_stands_first() -> None:
    copying = Copying()
    segments = [copies(WORKS[0], at * MIB, 3 * MIB) for at in range(3, 30, 3)]
    for segment in segments:
        copying.add(segment)
    assert copying.take() == segments[:2]
    chunks = copies(WORKS[0], 10)
    copying.add(chunks)
    assert copying.take() == [chunks, *segments[2:4]]


def test_files_are_copied_one_after_another() -> None:
    copying = Copying()
    late, early = copies(WORKS[1], 0), copies(WORKS[0], 5)
    copying.add(late)
    copying.add(early)
    assert copying.take() == [early, late]
    assert not copying.take()


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 99), st.integers(1, 12)), max_size=20)
)
def test_everything_is_taken_once_and_little_at_a_time(
    shapes: list[tuple[int, int, int]],
) -> None:
    copying = Copying()
    effects = [copies(WORKS[of], at, size * MIB) for of, at, size in shapes]
    for effect in effects:
        copying.add(effect)
    taken: list[CopyRanges] = []
    while copying:
        turn = copying.take()
        assert len(turn) == 1 or sum(effect.size for effect in turn) <= TURN_BYTES
        taken += turn
    assert sorted(map(id, taken)) == sorted(map(id, effects))
