"""Where the table of a zstd:chunked layer is, and taking it out of there."""

import pytest
import zstandard

from worker.layers import BadLayer
from worker.layers.chunked import TocPlace, toc_place, unpacked_toc
from worker.layers.toc import MAX_TOC_BYTES

TABLE = b'{"version":1,"entries":[]}' * 100


def test_a_table_is_where_its_annotation_says() -> None:
    assert toc_place("100:50:200:1", 150) == TocPlace(100, 150, 200)
    most = f"0:{MAX_TOC_BYTES}:{MAX_TOC_BYTES}:1"
    assert toc_place(most, MAX_TOC_BYTES) == TocPlace(0, MAX_TOC_BYTES, MAX_TOC_BYTES)


@pytest.mark.parametrize(
    "position",
    [
        "100:51:200:1",
        "151:0:200:1",
        f"0:1:{MAX_TOC_BYTES + 1}:1",
        "100:50:200:2",
        "100:50:200",
        "-1:50:200:1",
        "0x1:5:200:1",
        "",
    ],
)
def test_a_place_that_is_none_in_the_blob_is_not_understood(position: str) -> None:
    assert toc_place(position, 150) is None


def test_a_table_whose_compressed_bytes_are_over_the_limit_is_not_understood() -> None:
    assert toc_place(f"0:{MAX_TOC_BYTES + 1}:200:1", 1 << 40) is None


def test_a_table_is_unpacked_where_it_is_as_large_as_was_said() -> None:
    packed = zstandard.compress(TABLE)
    assert unpacked_toc(packed, TocPlace(0, len(packed), len(TABLE))) == TABLE
    for size in (len(TABLE) - 1, len(TABLE) + 1):
        with pytest.raises(BadLayer, match="not as large"):
            unpacked_toc(packed, TocPlace(0, len(packed), size))


def test_a_table_that_is_no_zstd_data_is_a_bad_layer() -> None:
    with pytest.raises(BadLayer, match="broken zstd data"):
        unpacked_toc(b"no zstd data at all", TocPlace(0, 19, 5))
