"""Which codec a frame takes, by what was seen of the link."""

import pytest

from filesync.transfer.coding.choice import Coding
from filesync.transfer.flow import Compress
from filesync.transfer.wire import Codec

MIB = 1 << 20
FEW = Coding.FAST_BYTES // MIB


def on_link(bytes_per_s: float, frames: int = 30) -> list[Codec]:
    """Return what each frame took on a link that all of them waited for."""
    coding = Coding(Compress.AUTO, may_stream=True)
    taken = []
    for _ in range(frames):
        taken.append(coding.codec)
        coding.note(MIB, MIB, MIB / bytes_per_s)
    return taken


def test_frames_are_a_stream_on_a_slow_link() -> None:
    assert set(on_link(12e6)) == {Codec.STREAM}


def test_frames_stand_alone_on_a_link_that_a_stream_does_not_fill() -> None:
    taken = on_link(120e6)
    assert taken[:FEW] == [Codec.STREAM] * FEW
    assert set(taken[FEW:]) == {Codec.ZSTD}


def test_frames_go_plain_on_a_link_that_makes_none_wait_and_are_coded_again_when_it_does() -> (
    None
):
    coding = Coding(Compress.AUTO, may_stream=True)
    taken = []
    for _ in range(3 * FEW):
        taken.append(coding.codec)
        coding.note(MIB, MIB, 0.0)
    assert taken == [Codec.STREAM] * FEW + [Codec.ZSTD] * FEW + [Codec.RAW] * FEW
    coding.note(MIB, MIB, 1.0)
    assert coding.codec is Codec.STREAM


@pytest.mark.parametrize(
    ("compress", "codec"), [(Compress.NONE, Codec.RAW), (Compress.ZSTD, Codec.STREAM)]
)
def test_what_was_asked_for_is_what_is_done_on_any_link(
    compress: Compress, codec: Codec
) -> None:
    coding = Coding(compress, may_stream=True)
    for waited_s in [0.0] * 20 + [9.0]:
        coding.note(MIB, MIB, waited_s)
        assert coding.codec is codec


def test_where_there_is_no_room_for_a_stream_frames_stand_alone() -> None:
    assert Coding(Compress.ZSTD, may_stream=False).codec is Codec.ZSTD
    assert Coding(Compress.AUTO, may_stream=False).codec is Codec.ZSTD


def test_of_little_the_first_frame_is_compressed_whatever_the_link() -> None:
    coding = Coding(Compress.LITTLE, may_stream=True)
    taken = []
    for waited_s in (10.0, 10.0):
        taken.append(coding.codec)
        coding.note(MIB, MIB, waited_s)
    assert taken == [Codec.ZSTD, Codec.RAW]
