"""zstd:chunked: where a layer that containers/storage wrote has its table of contents. Read only."""

import re
from typing import Final, NamedTuple

import zstandard

from worker.layers.errors import BadLayer
from worker.layers.toc import MAX_TOC_BYTES

_POSITION: Final = re.compile(r"([0-9]{1,15}):([0-9]{1,15}):([0-9]{1,15}):([0-9]{1,3})")
_JSON: Final = "1"


class TocPlace(NamedTuple):
    """Where a table is in a blob, compressed, and its size after that."""

    begin: int
    end: int
    size: int


def toc_place(position: str, blob_bytes: int) -> TocPlace | None:
    """Return where a layer's table is, as its annotation says; None where that is not understood."""
    match = _POSITION.fullmatch(position)
    if match is None or match[4] != _JSON:
        return None
    begin, packed, size = int(match[1]), int(match[2]), int(match[3])
    if packed > MAX_TOC_BYTES or size > MAX_TOC_BYTES or begin + packed > blob_bytes:
        return None
    return TocPlace(begin, begin + packed, size)


def unpacked_toc(packed: bytes, place: TocPlace) -> bytes:
    """Return the table itself.

    Raises:
        BadLayer: it is not what its annotation says.
    """
    try:
        toc = zstandard.ZstdDecompressor().stream_reader(packed).read(place.size + 1)
    except zstandard.ZstdError as exc:
        raise BadLayer(f"broken zstd data: {exc}") from exc
    if len(toc) != place.size:
        raise BadLayer("a table of contents that is not as large as its layer says")
    return toc
