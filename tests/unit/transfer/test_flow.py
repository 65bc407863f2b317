import pytest
from hypothesis import given
from hypothesis import strategies as st

from filesync.transfer.flow import Compress, Flow, Pace

flows = st.builds(Flow, st.sampled_from(Compress), st.integers(0, 9))


@given(flows, flows)
def test_the_lower_rate_holds_and_none_is_no_rate(one: Flow, other: Flow) -> None:
    rates = {one.bytes_per_s, other.bytes_per_s} - {0}
    assert one.stricter(other).bytes_per_s == min(rates, default=0)


@given(flows, flows)
def test_who_has_a_wish_about_compression_decides_and_the_first_before_the_second(
    one: Flow, other: Flow
) -> None:
    both = (one.compress, other.compress)
    wishes = [it for it in both if it in (Compress.NONE, Compress.ZSTD)]
    nearness = [it for it in both if it is Compress.LITTLE]
    assert one.stricter(other).compress is [*wishes, *nearness, Compress.AUTO][0]


def test_bytes_are_spread_over_time() -> None:
    pace = Pace(1000)
    assert [pace.delay(500, 0.0) for _ in range(3)] == [0.0, 0.5, 1.0]
    assert pace.delay(1, 60.0) == 0.0


def test_without_a_rate_nothing_waits() -> None:
    pace = Pace(0)
    assert [pace.delay(1 << 40, 0.0) for _ in range(3)] == [0.0] * 3


@pytest.mark.parametrize(
    ("address", "compress"),
    [
        ("tcp://127.0.0.1:1", Compress.LITTLE),
        ("tcp://[::1]:1", Compress.LITTLE),
        ("ipc:///tmp/x", Compress.LITTLE),
        ("carried:///tmp/x", Compress.AUTO),
        ("tcp://10.1.2.3:1", Compress.AUTO),
        ("tcp://example.org:1", Compress.AUTO),
        (None, Compress.AUTO),
    ],
)
def test_little_is_compressed_on_the_way_to_this_machine_unless_more_is_asked_for(
    address: str | None, compress: Compress
) -> None:
    assert Flow(Compress.AUTO, 7).to(address) == Flow(compress, 7)
    assert Flow(Compress.ZSTD).to(address) == Flow(Compress.ZSTD)
