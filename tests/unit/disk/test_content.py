import os
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filesync.disk import content

RUNS = st.lists(
    st.tuples(st.booleans(), st.sampled_from([1, 100, 4095, 4096, 65_536, 70_000, 200_000])),
    max_size=6,
)


@given(RUNS, st.sampled_from([0, 1, 4096, 5000]))
def test_what_is_written_with_holes_reads_as_it_was(
    runs: list[tuple[bool, int]], offset: int
) -> None:
    data = b"".join([b"x" * length if is_solid else bytes(length) for is_solid, length in runs])
    with tempfile.TemporaryFile() as file:
        os.ftruncate(file.fileno(), offset + len(data))
        content.write_sparse(file.fileno(), memoryview(data), offset)
        assert content.read_piece(file.fileno(), offset, len(data)) == data


def test_a_long_run_of_zeros_is_not_looked_at_page_by_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[int] = []
    is_zero = content._is_zero

    def counting(view: memoryview) -> bool:
        looked.append(len(view))
        return is_zero(view)

    monkeypatch.setattr(content, "_is_zero", counting)
    with tempfile.TemporaryFile() as file:
        content.write_sparse(file.fileno(), memoryview(bytes(1 << 20)), 0)
        assert os.fstat(file.fileno()).st_size == 0
    assert len(looked) < 32
